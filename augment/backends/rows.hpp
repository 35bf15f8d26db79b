// Finished rows in the output's number format, for views.cpp.

#pragma once

#include "common.hpp"

namespace {

uint16_t to_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

// The nearest float16, ties to even, as bits. (Not _Float16: g++ 11 and clang++ 14 have none on x86.)
uint16_t to_float16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const uint32_t sign = bits >> 16 & 0x8000;
  bits &= 0x7FFFFFFF;
  if (bits >= 0x47800000) return uint16_t(sign | (bits > 0x7F800000 ? 0x7E00 : 0x7C00));  // NaN; 65536 and more
  if (bits >= 0x38800000) return uint16_t(sign | (bits + 0xC8000FFF + (bits >> 13 & 1)) >> 13);
  const float rounded = std::abs(x) + 0.5f;  // below 2^-14: its last bit is worth float16's smallest number
  std::memcpy(&bits, &rounded, 4);
  return uint16_t(sign | (bits - 0x3F000000));
}

// A finished row as float32 (0), bfloat16 (1) or float16 (2).
void write_row(const float* from, void* out, size_t start, int n, int dtype) {
  if (dtype == 0) std::memcpy(static_cast<float*>(out) + start, from, n * sizeof(float));
  uint16_t* const to = static_cast<uint16_t*>(out) + start;
  int j = 0;
  for (; dtype == 1 && j < n; ++j) to[j] = to_bfloat16(from[j]);
#if defined(__F16C__)
  for (; dtype == 2 && j + 8 <= n; j += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + j), _mm256_cvtps_ph(_mm256_loadu_ps(from + j), 0));
#endif
  for (; dtype == 2 && j < n; ++j) to[j] = to_float16(from[j]);
}

}  // namespace
