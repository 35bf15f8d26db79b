// Linear colour and normalisation of rows of pixels, for views.cpp.

#pragma once

#include "vectors.hpp"

namespace {

// Levels to what a network wants: level * scale[c] + shift[c].
struct Normalisation {
  const float *scale, *shift;
};

// y = M·x + K·mean, clamped and normalised. `matrix` and `offset` are M and K by rows. Each y[c] is the sum of its
// constant and of the products with red, green and blue, in this order, rounded once a product (fused multiply-add).
class Linear {
 public:
  Linear(const float* matrix, const float* offset, const double mean[3], const Normalisation& to) {
    for (int c = 0; c < 3; ++c) {
      float constant = 0;
      for (int from = 0; from < 3; ++from) constant += offset[3 * c + from] * float(mean[from]);
      const float low = to.shift[c], high = 255 * to.scale[c] + to.shift[c];
      set(c, matrix + 3 * c, to.scale[c], constant * to.scale[c] + to.shift[c], low, high);
    }
  }

#if defined(__AVX2__) && defined(__FMA__) && !defined(__AVX512F__)

  // A row of n bytes to n floats. Up to 4 bytes more than whole blocks of 24 are read, and whole blocks are written.
  // Eight pixels at a time: their bytes are spread into a register a channel, and its results are woven together again.
  template <bool kPast>
  void row(const uint8_t* from, float* to, int n, float*) const {
    for (int j = 0; j < n; j += 3 * kWide) {
      const __m128i first = _mm_loadu_si128((const __m128i*)(from + j));
      const __m128i last = _mm_loadu_si128((const __m128i*)(from + j + 12));
      const __m256i bytes = _mm256_inserti128_si256(_mm256_castsi128_si256(first), last, 1);
      __m256 x[3], y[3];
      for (int c = 0; c < 3; ++c) x[c] = _mm256_cvtepi32_ps(_mm256_shuffle_epi8(bytes, spread(c)));
      for (int c = 0; c < 3; ++c) {
        y[c] = shift_[c];
        for (int k = 0; k < 3; ++k) y[c] = _mm256_fmadd_ps(x[k], tap_[c][k], y[c]);
        y[c] = _mm256_min_ps(_mm256_max_ps(y[c], low_[c]), high_[c]);
      }
      const __m256 r = _mm256_permutevar8x32_ps(y[0], _mm256_setr_epi32(0, 3, 6, 1, 4, 7, 2, 5));
      const __m256 g = _mm256_permutevar8x32_ps(y[1], _mm256_setr_epi32(5, 0, 3, 6, 1, 4, 7, 2));
      const __m256 b = _mm256_permutevar8x32_ps(y[2], _mm256_setr_epi32(2, 5, 0, 3, 6, 1, 4, 7));
      store<kPast>(to + j, (Vec)_mm256_blend_ps(_mm256_blend_ps(r, g, 0x92), b, 0x24));
      store<kPast>(to + j + 8, (Vec)_mm256_blend_ps(_mm256_blend_ps(r, g, 0x24), b, 0x49));
      store<kPast>(to + j + 16, (Vec)_mm256_blend_ps(_mm256_blend_ps(r, g, 0x49), b, 0x92));
    }
  }

 private:
  // The bytes of a channel in 16 bytes of four pixels, each to 32 bits.
  static __m256i spread(int c) {
    const int none = 0xFFFFFF00;
    return _mm256_broadcastsi128_si256(_mm_setr_epi32(none | c, none | (3 + c), none | (6 + c), none | (9 + c)));
  }

  void set(int c, const float* weight, float scale, float shift, float low, float high) {
    for (int k = 0; k < 3; ++k) tap_[c][k] = _mm256_set1_ps(weight[k] * scale);
    shift_[c] = _mm256_set1_ps(shift), low_[c] = _mm256_set1_ps(low), high_[c] = _mm256_set1_ps(high);
  }

  __m256 tap_[3][3], shift_[3], low_[3], high_[3];

#else

  // A row of n bytes to n floats. `line`: memory for n floats, which may be read from -2 on and a little beyond the end.
  // Bytes as well are read, and floats written, in whole groups of three registers.
  // A filter along the interleaved row: five taps whose weights depend on the channel.
  template <bool kPast>
  void row(const uint8_t* from, float* to, int n, float* line) const {
    for (int j = 0; j < n; j += kWide) *reinterpret_cast<Vec*>(line + j) = load(from + j);
    for (int j = 0; j < n; j += 3 * kWide)
      for (int g = 0; g < 3; ++g) {
        const float* x = line + j + kWide * g - 2;
        Vec y = shift_[g];
        for (int t = 0; t < 5; ++t) y += tap_[g][t] * load(x + t);
        y = y < low_[g] ? low_[g] : y;
        store<kPast>(to + j + kWide * g, y > high_[g] ? high_[g] : y);
      }
  }

 private:
  void set(int c, const float* weight, float scale, float shift, float low, float high) {
    for (int l = c; l < 3 * kWide; l += 3) {
      const int g = l / kWide, i = l % kWide;
      for (int t = 0; t < 5; ++t) tap_[g][t][i] = c + t >= 2 && c + t < 5 ? weight[c + t - 2] * scale : 0.f;
      shift_[g][i] = shift, low_[g][i] = low, high_[g][i] = high;
    }
  }

  Vec tap_[3][5], shift_[3], low_[3], high_[3];  // of three registers, in which all places of a channel come by

#endif
};

}  // namespace
