// Registers of floats, for views.cpp.

#pragma once

#include "common.hpp"

namespace {

// Floats of one register: longer vectors would live in memory, not in registers (five times slower with AVX2, measured).
#if defined(__AVX512F__)
constexpr int kWide = 16;
#elif defined(__AVX2__)
constexpr int kWide = 8;
#else
constexpr int kWide = 4;
#endif
constexpr int kLanes = 48;  // of three registers or a multiple of it
constexpr int kPad = 16;    // elements before and after a row that may be read, never used
typedef float Vec __attribute__((vector_size(4 * kWide), aligned(4)));
typedef uint8_t Bytes __attribute__((vector_size(kWide), aligned(1)));

int round_up(int n, int to) { return (n + to - 1) / to * to; }

Vec load(const float* from) { return *reinterpret_cast<const Vec*>(from); }
Vec load(const uint8_t* from) {  // compilers take a long way from bytes to floats
#if defined(__AVX512F__)
  return (Vec)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#elif defined(__AVX2__)
  return (Vec)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
#else
  return __builtin_convertvector(*reinterpret_cast<const Bytes*>(from), Vec);
#endif
}

// Finished views go past the caches, which a batch would not fit into anyway: what is there need not be read first (4 %
// of the whole job, measured). `to` must be a multiple of 64 bytes then.
template <bool kPast>
void store(float* to, Vec x) {
#if defined(__AVX512F__)
  if (kPast) return _mm512_stream_ps(to, (__m512)x);
#elif defined(__AVX2__)
  if (kPast) return _mm256_stream_ps(to, (__m256)x);
#endif
  *reinterpret_cast<Vec*>(to) = x;
}

void end_of_stores() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

constexpr int kLine = 64;  // bytes of a line of the cache

bool aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % kLine == 0; }

// Loads across two lines of the cache take twice as long.
float* on_line(float* at) { return at + (kLine - reinterpret_cast<uintptr_t>(at) % kLine) % kLine / sizeof(float); }

}  // namespace
