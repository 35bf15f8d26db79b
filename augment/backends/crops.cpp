// Antialiased crops of decoded images on the CPU: the first of the fused backend's two kernels (the other: views.cpp).
//
// Built at first use by augment/backends/native.py (about three seconds) and called through ctypes, which lets other
// Python threads run meanwhile. No dependencies. The arithmetic is in fixed point, 1/128 of a level, between the passes
// too (Pillow rounds to whole levels there): the result is within a hundredth of a level of the exact one, rounded.
//
// Rows first: eight rows of the result by a block of bytes, a pixel's channels side by side, turned in registers and
// stored by columns. A pass over columns of 32 rows at a time then needs neither gathers nor shuffles. Measured against
// sums over interleaved pixels, four lanes at a time: 2.5 times as fast.

#include "crops.hpp"

namespace {

constexpr int kRows = 32;   // rows of the result that are made together
constexpr int kGroup = 8;   // of those, rows that are turned together
// Bytes of a row that are read together: as many as become the 16-bit numbers of one register (longer vectors would live
// in memory). kTurned: bytes of a column that are turned together.
#if defined(__AVX512BW__)
constexpr int kBlock = 32, kTurned = 32;
#elif defined(__AVX2__)
constexpr int kBlock = 16, kTurned = 32;
#else
constexpr int kBlock = 8, kTurned = 16;
#endif
constexpr int kLine = 64;      // bytes of a line of the cache
constexpr int kOne = 1 << 15;  // a weight of 1
constexpr int kMostTaps = 32;  // with more, the products' rounding errors would add up to more than 1/8 of a level
typedef int16_t Shorts __attribute__((vector_size(2 * kBlock)));
typedef int16_t LooseShorts __attribute__((vector_size(2 * kBlock), aligned(2)));  // anywhere in memory
typedef uint8_t Bytes __attribute__((vector_size(kBlock)));
typedef uint8_t Turned __attribute__((vector_size(kTurned)));

// Weights of an antialiased triangle filter, as Pillow computes them: for output i, `taps` inputs from `start`, counted
// from the pixel `first` that holds the ROI's beginning; the number is the same for all outputs, weights of 0 fill up.
// They sum up to kOne, so that a flat area stays what it is.
struct Filter {
  std::vector<int> start;
  std::vector<int32_t> weight;  // [out, taps]: twice in the two halves, as the products take it
  std::vector<double> exact;    // [taps, out]
  int taps = 0, first = 0, in = 0;

  // An ROI of from ... to `unit`s of a pixel. Loops go over the outputs, so that they vectorise.
  void set(int from_unit, int to_unit, int unit, int out) {
    first = from_unit / unit, in = (to_unit + unit - 1) / unit - first;
    const double begin = double(from_unit % unit) / unit;
    const double scale = double(to_unit - from_unit) / unit / out, stretch = std::max(scale, 1.0), slope = 1 / stretch;
    for (std::vector<int>* of : {&start, &low_, &high_, &before_}) of->resize(out);
    centre_.resize(out), sum_.resize(out);
    int most = 0;
    for (int i = 0; i < out; ++i) {
      low_[i] = std::max(int(begin + (i + 0.5) * scale - stretch + 0.5), 0);
      high_[i] = std::min(int(begin + (i + 0.5) * scale + stretch + 0.5), in);
      most = std::max(most, high_[i] - low_[i]);
    }
    taps = most;
    weight.resize(size_t(out) * taps), exact.resize(size_t(out) * taps);
    for (int i = 0; i < out; ++i) {
      start[i] = std::min(low_[i], in - taps);
      low_[i] -= start[i], high_[i] -= start[i];
      centre_[i] = begin + (i + 0.5) * scale - start[i] - 0.5;
      sum_[i] = 0, before_[i] = 0;
    }
    for (int k = 0; k < taps; ++k) {
      double* share = &exact[size_t(k) * out];
      for (int i = 0; i < out; ++i) {
        const double height = std::max(0.0, 1 - std::abs(k - centre_[i]) * slope);
        share[i] = k < low_[i] || k >= high_[i] ? 0 : height;
        sum_[i] += share[i];
      }
    }
    // What rounding leaves over goes to the next weight: the sum stays exact.
    std::vector<double>& carried = centre_;
    for (int i = 0; i < out; ++i) sum_[i] = 1 / sum_[i], carried[i] = 0.5;
    for (int k = 0; k < taps; ++k) {
      double* share = &exact[size_t(k) * out];
      for (int i = 0; i < out; ++i) {
        share[i] *= sum_[i];
        carried[i] += share[i] * kOne;
        const int upto = int(carried[i]), w = std::min(upto - before_[i], kOne - 1);
        weight[size_t(i) * taps + k] = w << 16 | w;
        before_[i] = upto;
      }
    }
  }

 private:
  std::vector<int> low_, high_, before_;
  std::vector<double> centre_, sum_;
};

// Bytes to 1/128 levels; products of those with weights, rounded; and the lower or higher halves of every 16 bytes of a
// and b, element by element in turn.
#if defined(__AVX512BW__)
Shorts levels(const uint8_t* from) {
  return (Shorts)_mm512_slli_epi16(_mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i*)from)), 7);
}
Shorts times(Shorts a, int32_t weight) {
  return (Shorts)_mm512_mulhrs_epi16((__m512i)a, _mm512_set1_epi32(weight));
}
Shorts low_halves(Shorts a, Shorts b) { return (Shorts)_mm512_unpacklo_epi16((__m512i)a, (__m512i)b); }
Shorts high_halves(Shorts a, Shorts b) { return (Shorts)_mm512_unpackhi_epi16((__m512i)a, (__m512i)b); }
#elif defined(__AVX2__)
Shorts levels(const uint8_t* from) {
  return (Shorts)_mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)from)), 7);
}
Shorts times(Shorts a, int32_t weight) {
  return (Shorts)_mm256_mulhrs_epi16((__m256i)a, _mm256_set1_epi32(weight));
}
Shorts low_halves(Shorts a, Shorts b) { return (Shorts)_mm256_unpacklo_epi16((__m256i)a, (__m256i)b); }
Shorts high_halves(Shorts a, Shorts b) { return (Shorts)_mm256_unpackhi_epi16((__m256i)a, (__m256i)b); }
#else
#if defined(__SSE2__)
Shorts levels(const uint8_t* from) {
  const __m128i bytes = _mm_loadl_epi64((const __m128i*)from);
  return (Shorts)_mm_slli_epi16(_mm_unpacklo_epi8(bytes, _mm_setzero_si128()), 7);
}
Shorts times(Shorts a, int32_t weight) {
  const __m128i x = (__m128i)a, w = _mm_set1_epi32(weight);
#if defined(__SSSE3__)
  return (Shorts)_mm_mulhrs_epi16(x, w);
#else  // nothing is negative: a product's bits from 14 on fit into 16, and an average with 0 rounds and halves
  const __m128i high = _mm_slli_epi16(_mm_mulhi_epi16(x, w), 2), low = _mm_srli_epi16(_mm_mullo_epi16(x, w), 14);
  return (Shorts)_mm_avg_epu16(_mm_or_si128(high, low), _mm_setzero_si128());
#endif
}
#else
Shorts levels(const uint8_t* from) {
  Bytes bytes;
  std::memcpy(&bytes, from, sizeof bytes);
  return __builtin_convertvector(bytes, Shorts) << 7;
}
Shorts times(Shorts a, int32_t weight) {
  typedef int32_t Ints __attribute__((vector_size(4 * kBlock)));
  return __builtin_convertvector((__builtin_convertvector(a, Ints) * (weight & 0x7FFF) + (1 << 14)) >> 15, Shorts);
}
#endif
Shorts low_halves(Shorts a, Shorts b) { return SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
Shorts high_halves(Shorts a, Shorts b) { return SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }
#endif
#if defined(__AVX2__)
Turned low_halves(Turned a, Turned b) { return (Turned)_mm256_unpacklo_epi8((__m256i)a, (__m256i)b); }
Turned high_halves(Turned a, Turned b) { return (Turned)_mm256_unpackhi_epi8((__m256i)a, (__m256i)b); }
#else
Turned low_halves(Turned a, Turned b) {
  return SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
Turned high_halves(Turned a, Turned b) {
  return SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
#endif

// Turns the square of n × n elements in every 16 bytes of n vectors: an element's place, its row's bits before its
// column's, is rotated by one bit a pass.
template <int n, typename V>
void turn(V* rows) {
  for (int bits = n; bits > 1; bits /= 2) {
    V next[n];
    for (int r = 0; r < n / 2; ++r) {
      next[2 * r] = low_halves(rows[r], rows[r + n / 2]);
      next[2 * r + 1] = high_halves(rows[r], rows[r + n / 2]);
    }
    std::copy(next, next + n, rows);
  }
}

// An image's rows from a crop's corner on.
struct Source {
  const uint8_t* pixels;
  int64_t stride;
  const uint8_t* row(int y) const { return pixels + y * stride; }
};

typedef void EightRows(const int16_t*, int, const Filter&, int, int, int16_t*);
typedef void AcrossRows(const int16_t*, const Filter&, int, bool, uint8_t*);

// kBlock bytes, from column j on, of the source's rows `first` to `last` as 1/128 levels: most are read by two rows of
// the crop or more. Bytes that are soon wanted are asked for: so many rows are too many for the processor to foresee.
void read_levels(const Source& source, int first, int last, int j, int16_t* to) {
  for (int y = first; y <= last; ++y, to += kBlock) {
    *(LooseShorts*)to = levels(source.row(y) + j);
    if (j % kLine < kBlock) __builtin_prefetch(source.row(y) + j + 3 * kLine);
  }
}

// Asks for the share from `part` to `next` of `all` of `count` bytes, to be written.
void claim(uint8_t* at, int64_t count, int part, int next, int all) {
  for (int64_t k = count * part / all; k < count * next / all; k += kLine) __builtin_prefetch(at + k, 1, 2);
}

// Rows y ... y + 7 of the crop (the last one again beyond its end), kBlock bytes, by columns to `to`. `block`: what
// `read_levels` made of the source's rows from `first` on.
template <int kTaps>
void eight_rows(const int16_t* block, int first, const Filter& down, int y, int last, int16_t* to) {
  const int taps = kTaps ? kTaps : down.taps;
  Shorts rows[kGroup];
#pragma GCC unroll 8
  for (int r = 0; r < kGroup; ++r) {
    const int at = std::min(y + r, last);
    const int32_t* weight = &down.weight[size_t(at) * taps];
    const int16_t* from = block + (down.start[at] - first) * kBlock;
    Shorts sum = times(*(const LooseShorts*)from, weight[0]);
    for (int k = 1; k < taps; ++k) sum += times(*(const LooseShorts*)(from + k * kBlock), weight[k]);
    rows[r] = sum;
  }
  turn<kGroup>(rows);
  for (int c = 0; c < kGroup; ++c)
    for (int lane = 0; lane < kBlock / 8; ++lane)
      std::memcpy(to + (8 * lane + c) * kRows, (const char*)&rows[c] + 16 * lane, 16);
}

// One pixel of 32 rows, from columns of 1/128 levels to three columns of bytes.
template <int kTaps>
void pixel_of_rows(const int16_t* columns, const Filter& across, int x, uint8_t* to) {
  const int taps = kTaps ? kTaps : across.taps;
  const int32_t* weight = &across.weight[size_t(x) * taps];
  const int16_t* from = columns + size_t(across.start[x]) * 3 * kRows;
  constexpr int kParts = kRows / kBlock;
  Shorts sum[3 * kParts];
  for (auto& part : sum) part = Shorts{} + 64;  // half a level
  for (int k = 0; k < taps; ++k, from += 3 * kRows)
#pragma GCC unroll 12
    for (int i = 0; i < 3 * kParts; ++i) sum[i] += times(*(const LooseShorts*)(from + i * kBlock), weight[k]);
#pragma GCC unroll 12
  for (int i = 0; i < 3 * kParts; ++i) {
    const Bytes bytes = __builtin_convertvector(sum[i] >> 7, Bytes);
    std::memcpy(to + i * kBlock, &bytes, sizeof bytes);
  }
}

template <int kTaps>
void across_rows(const int16_t* columns, const Filter& across, int width, bool flip, uint8_t* to) {
  for (int x = 0; x < width; ++x) pixel_of_rows<kTaps>(columns, across, x, to + 3 * kRows * (flip ? width - 1 - x : x));
}

// `rows` rows of `count` bytes from columns of 32 rows. `room`: bytes from `out` to the crop's end. 16 bytes are
// written at a time, from the right to the left and down: what goes too far is written over.
void rows_of_columns(const uint8_t* columns, int rows, int count, uint8_t* out, int64_t room) {
  for (int j = (count - 1) / 16 * 16; j >= 0; j -= 16)
    for (int part = 0; part < rows; part += kTurned) {
      Turned block[16];
      for (int i = 0; i < 16; ++i) std::memcpy(&block[i], columns + size_t(j + i) * kRows + part, sizeof block[i]);
      turn<16>(block);
      for (int y = part; y < std::min(rows, part + kTurned); ++y) {
        const int64_t at = int64_t(y) * count + j;
        const char* row = (const char*)&block[y % 16] + (y - part) / 16 * 16;
        if (at + 16 <= room) std::memcpy(out + at, row, 16);
        else if (at < room) std::memcpy(out + at, row, room - at);
      }
    }
}

// One thread's, kept from call to call.
struct Memory {
  Filter across, down;
  std::vector<int16_t> block, columns;
  std::vector<uint8_t> turned;
};

// The same by the definition, for what the fast way does not take.
void plain_crop(const Source& source, const Filter& across, const Filter& down, const Crop& crop) {
  std::vector<double> line(3 * size_t(across.in));
  for (int y = 0; y < crop.height; ++y) {
    std::fill(line.begin(), line.end(), 0.0);
    for (int k = 0; k < down.taps; ++k) {
      const uint8_t* row = source.row(down.start[y] + k);
      for (size_t j = 0; j < line.size(); ++j) line[j] += down.exact[size_t(k) * crop.height + y] * row[j];
    }
    uint8_t* out = crop.out + 3 * size_t(y) * crop.width;
    for (int i = 0; i < crop.width; ++i)
      for (int c = 0; c < 3; ++c) {
        double sum = 0.5;
        for (int k = 0; k < across.taps; ++k)
          sum += across.exact[size_t(k) * crop.width + i] * line[3 * size_t(across.start[i] + k) + c];
        out[3 * (crop.flip ? crop.width - 1 - i : i) + c] = uint8_t(std::min(sum, 255.0));
      }
  }
}

}  // namespace

extern "C" {

// Crops of one packed image [image_height, image_width, 3], resized bilinearly with antialiasing. Returns 1, and cuts
// nothing, where one of them is empty or leaves the image; else 0.
int32_t crops(const uint8_t* image, int32_t image_width, int32_t image_height, int32_t n, const Crop* jobs) {
  const auto good = [&](const Crop& c) {
    const int64_t unit = std::max(c.unit, 1);
    return 0 <= c.x0 && c.x0 < c.x1 && c.x1 <= image_width * unit && 0 <= c.y0 && c.y0 < c.y1 &&
           c.y1 <= image_height * unit && c.width > 0 && c.height > 0;
  };
  if (!std::all_of(jobs, jobs + n, good)) return 1;
  const int64_t stride = 3 * int64_t(image_width);
  thread_local Memory memory;
  auto& [across, down, block, columns, turned] = memory;
  // By the number of taps, 0 for any: loops of a known length unroll.
  constexpr EightRows* kEightRows[] = {eight_rows<0>, eight_rows<1>, eight_rows<2>, eight_rows<3>,
                                       eight_rows<4>, eight_rows<5>, eight_rows<6>, eight_rows<7>};
  constexpr AcrossRows* kAcrossRows[] = {across_rows<0>, across_rows<1>, across_rows<2>, across_rows<3>,
                                         across_rows<4>, across_rows<5>, across_rows<6>, across_rows<7>};
  for (const Crop* c = jobs; c < jobs + n; ++c) {
    const int unit = std::max(c->unit, 1);
    across.set(c->x0, c->x1, unit, c->width), down.set(c->y0, c->y1, unit, c->height);
    const int bytes = 3 * across.in, count = 3 * c->width;
    const Source source{image + down.first * stride + 3 * int64_t(across.first), stride};
    if (bytes < kBlock || std::max(across.taps, down.taps) > kMostTaps) {
      plain_crop(source, across, down, *c);
      continue;
    }
    EightRows* const eight_rows = kEightRows[down.taps < 8 ? down.taps : 0];
    AcrossRows* const across_rows = kAcrossRows[across.taps < 8 ? across.taps : 0];
    if (columns.size() < size_t(bytes) * kRows) columns.resize(size_t(bytes) * kRows);
    if (turned.size() < (count + 16) * size_t(kRows)) turned.resize((count + 16) * size_t(kRows));
    for (int y = 0; y < c->height; y += kRows) {
      const int rows = std::min(kRows, c->height - y);
      const int64_t at = int64_t(y) * count;
      const int first = down.start[y], last = down.start[y + rows - 1] + down.taps - 1;
      if (block.size() < size_t(last + 1 - first) * kBlock) block.resize(size_t(last + 1 - first) * kBlock);
      for (int j = 0; j < bytes; j += kBlock) {
        const int start = std::min(j, bytes - kBlock);  // the last block begins earlier, nothing is read beyond
        read_levels(source, first, last, start, block.data());
        claim(c->out + at, int64_t(rows) * count, j, std::min(j + kBlock, bytes), bytes);
        for (int r = 0; r < rows; r += kGroup)
          eight_rows(block.data(), first, down, y + r, c->height - 1, &columns[size_t(start) * kRows + r]);
      }
      across_rows(columns.data(), across, c->width, c->flip, turned.data());
      rows_of_columns(turned.data(), rows, count, c->out + at, int64_t(c->height) * count - at);
    }
  }
  return 0;
}

// Works on a batch until no picture is left.
void crops_of(PictureBatch* batch) {
  for (int32_t i; (i = __atomic_fetch_add(&batch->next, 1, __ATOMIC_RELAXED)) < batch->count;) {
    const int64_t first = batch->first[i], n = batch->first[i + 1] - first;
    if (crops(batch->pixels[i], batch->widths[i], batch->heights[i], int32_t(n), batch->crops + first))
      __atomic_store_n(&batch->left, i, __ATOMIC_RELAXED);
  }
}

}  // extern "C"
