// Finished views from scenes and patches on the CPU: the second of the fused backend's two kernels (the first, and how
// they are built: crops.cpp). Loops are written so that the compiler can vectorise them: pixels stay interleaved
// (RGBRGB...), and whatever depends on the channel is a table of 48 lanes, a common multiple of 3 channels and of the
// vectors' lengths. Normalisation is linear, so it is part of the colour; the blur, whose weights sum to 1, comes after.
//
// The meaning is that of tests/augment/reference.py, which is the place to read it in.

#include "linear.hpp"
#include "planes.hpp"
#include "rows.hpp"
#include "views.hpp"

namespace {

typedef uint8_t Bytes16 __attribute__((vector_size(16), aligned(1)));

float* grown(std::vector<float>& buffer, size_t count) {
  if (buffer.size() < count) buffer.resize(count);
  return buffer.data();
}

// out[j] = sum over k of weight[k] * rows[k][j] for j < kCount * kWide.
template <int kCount, bool kPast>
void weighted(const float* const* rows, const float* weight, int taps, int j, float* out) {
  Vec sum[kCount] = {};
  for (int k = 0; k < taps; ++k) {
    const float* row = rows[k] + j;
    const float w = weight[k];
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) sum[i] += w * load(row + i * kWide);
  }
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) store<kPast>(out + j + i * kWide, sum[i]);
}

// out[j] = sum over k of weight[k] * rows[k][j] for j < n; nothing beyond is touched.
template <bool kPast>
void weighted_rows(const float* const* rows, const float* weight, int taps, int n, float* out) {
  constexpr int kBlock = 8;  // registers at a time: as many sums as hide how long one takes
  int j = 0;
  for (; j + kBlock * kWide <= n; j += kBlock * kWide) weighted<kBlock, kPast>(rows, weight, taps, j, out);
  for (; j + 2 * kWide <= n; j += 2 * kWide) weighted<2, kPast>(rows, weight, taps, j, out);
  for (; j + kWide <= n; j += kWide) weighted<1, kPast>(rows, weight, taps, j, out);
  for (; j < n; ++j) {
    float sum = 0;
    for (int k = 0; k < taps; ++k) sum += weight[k] * rows[k][j];
    out[j] = sum;
  }
}

// Working memory of one thread for views of one size. Rows have kPad elements before and after them.
struct Work {
  int size = 0, row = 0, stride = 0, window = 1;
  std::vector<uint8_t> canvas_buffer;
  std::vector<float> pixel_buffer, line_buffer, wide_buffer, plane_buffer;

  void fit(int side) {
    if (side == size) return;
    size = side, row = 3 * side, stride = round_up(row, kLanes) + 2 * kPad;
    canvas_buffer.assign(size_t(side) * stride + kLine, 0);
    pixel_buffer.assign(size_t(side) * stride + kLine, 0.f);
    line_buffer.assign(stride, 0.f);
  }
  uint8_t* canvas(int y) { return canvas_buffer.data() + size_t(y) * stride + kPad; }
  float* coloured(int y) { return pixels(y % window); }
  float* pixels(int y) { return on_line(pixel_buffer.data()) + size_t(y) * stride + kPad; }
  float* line() { return line_buffer.data() + kPad; }
};

// The n pixels before `end`, from the last to the first.
void mirrored(const uint8_t* end, int n, uint8_t* to) {
  int x = 0;
  for (; x + 5 < n; x += 5) {  // five pixels of the sixteen bytes before `end - 3 * x`
    Bytes16 bytes;
    std::memcpy(&bytes, end - 3 * x - 16, 16);
    bytes = SHUFFLE(bytes, bytes, 13, 14, 15, 10, 11, 12, 7, 8, 9, 4, 5, 6, 1, 2, 3, 0);
    std::memcpy(to + 3 * x, &bytes, 16);
  }
  for (; x < n; ++x) std::memcpy(to + 3 * x, end - 3 * (x + 1), 3);
}

// Sums of the channels over rows of n bytes.
struct Sums {
  uint32_t sum[kLanes] = {};

  void add(const uint8_t* row, int n) {
    const int whole = n / kLanes * kLanes;
    for (int from = 0; from < whole; from += 256 * kLanes) {  // 256 bytes and more would not fit into 16 bits
      uint16_t part[kLanes] = {};
      for (int j = from; j < std::min(from + 256 * kLanes, whole); j += kLanes)
        for (int l = 0; l < kLanes; ++l) part[l] += row[j + l];
      for (int l = 0; l < kLanes; ++l) sum[l] += part[l];
    }
    for (int j = whole; j < n; ++j) sum[j - whole] += row[j];
  }

  double of(int channel) const {
    double all = 0;
    for (int l = channel; l < kLanes; l += 3) all += sum[l];
    return all;
  }
};

// Asks for n bytes, which need not exist.
void fetch(const uint8_t* from, int n) {
  for (int j = 0; j < n; j += kLine) __builtin_prefetch(from + j);
}

// The view's levels, to the canvas; and, where they are wanted, the means of its channels.
void compose(const View& view, Work& work, double* mean) {
  const int size = work.size, y0 = view.rect[1], y1 = view.rect[3];
  constexpr int kAhead = 2;  // rows
  Sums sums;
  for (int y = 0; y < size; ++y) {
    const bool patched = y >= y0 && y < y1;
    const int x0 = patched ? view.rect[0] : size, x1 = patched ? view.rect[2] : size;
    uint8_t* to = work.canvas(y);
    const uint8_t* scene = view.scene + size_t(y) * work.row;  // not to be read where the patch covers everything
    const uint8_t* patch = view.patch + size_t(y - y0) * 3 * (x1 - x0);
    if (x0 > 0 || x1 < size) fetch(scene + kAhead * work.row, work.row);
    if (patched) fetch(patch + kAhead * 3 * (x1 - x0), 3 * (x1 - x0));
    if (x0 > 0 && view.flip) mirrored(scene + work.row, x0, to);
    if (x0 > 0 && !view.flip) std::memcpy(to, scene, 3 * x0);
    if (patched) std::memcpy(to + 3 * x0, patch, 3 * (x1 - x0));
    if (x1 < size && view.flip) mirrored(scene + 3 * (size - x1), size - x1, to + 3 * x1);
    if (x1 < size && !view.flip) std::memcpy(to + 3 * x1, scene + 3 * x1, 3 * (size - x1));
    if (mean) sums.add(to, work.row);
  }
  for (int c = 0; mean && c < 3; ++c) mean[c] = sums.of(c) / (double(size) * size);
}

void torchvision_colour(const View& view, const Normalisation& to, Work& work) {
  const int size = work.size, n = size * size;
  float* memory = grown(work.plane_buffer, 3 * size_t(n));
  Planes planes{memory, memory + n, memory + 2 * size_t(n), n};
  for (int y = 0; y < size; ++y) {
    const uint8_t* row = work.canvas(y);
    for (int x = 0, i = y * size; x < size; ++x, ++i)
      planes.r[i] = row[3 * x], planes.g[i] = row[3 * x + 1], planes.b[i] = row[3 * x + 2];
  }
  if (view.jittered)
    for (int op : view.order) {
      const float factor = view.jitter[op];
      if (op == 0) planes.scale(factor);
      if (op == 1) planes.contrast(factor);
      if (op == 2) planes.saturation(factor);
      if (op == 3) planes.hue(factor);
    }
  if (view.gray) planes.gray();
  for (int y = 0; y < size; ++y) {
    float* row = work.pixels(y);
    for (int x = 0, i = y * size; x < size; ++x, ++i)
      row[3 * x] = planes.r[i] * to.scale[0] + to.shift[0],
      row[3 * x + 1] = planes.g[i] * to.scale[1] + to.shift[1],
      row[3 * x + 2] = planes.b[i] * to.scale[2] + to.shift[2];
  }
}

int reflected(int i, int n) { return i < 0 ? -i : (i >= n ? 2 * n - 2 - i : i); }

// The blur of one view, row after row. `row(i)` gives the coloured row i; `window` of them must stay where they are.
struct Blur {
  std::vector<float> weight;
  std::vector<const float*> taps;
  int radius;

  explicit Blur(const View& view) : weight(2 * view.radius + 1), taps(2 * view.radius + 1), radius(view.radius) {
    double sum = 0;
    for (int pass = 0; pass < 2; ++pass)
      for (int k = -radius; k <= radius; ++k) {
        const double w = std::exp(-0.5 * k * k / (double(view.sigma) * view.sigma));
        if (pass == 0) sum += w; else weight[k + radius] = float(w / sum);
      }
  }

  // Row y of the result into `out`, 3 * size elements and no more; `past` as in `store`.
  void apply(Work& work, int y, float* out, bool past) {
    const int margin = 3 * radius, count = 2 * radius + 1;
    for (int k = 0; k < count; ++k) taps[k] = work.coloured(reflected(y + k - radius, work.size));
    float* line = grown(work.wide_buffer, work.row + 2 * size_t(margin)) + margin;
    weighted_rows<false>(taps.data(), weight.data(), count, work.row, line);
    for (int x = 1; x <= radius; ++x) {
      std::memcpy(line - 3 * x, line + 3 * x, 3 * sizeof(float));
      std::memcpy(line + work.row + 3 * (x - 1), line + work.row - 3 * (x + 1), 3 * sizeof(float));
    }
    for (int k = 0; k < count; ++k) taps[k] = line + 3 * (k - radius);
    (past ? weighted_rows<true> : weighted_rows<false>)(taps.data(), weight.data(), count, work.row, out);
  }
};

}  // namespace

extern "C" {

// Finished views from scenes and patches; `linear` chooses the meaning of colour.
void views(int32_t n, const View* jobs, int32_t size, int32_t linear, const float* scale, const float* shift,
           int32_t dtype) {
  thread_local Work memory;
  Work& work = memory;
  work.fit(size);
  const Normalisation normal{scale, shift};
  // Rows are finished where they belong if nothing beyond them is touched, else here.
  std::vector<float> buffer(round_up(work.row, kLanes));
  for (const View* view = jobs; view < jobs + n; ++view) {
    double mean[3] = {};
    const bool wanted = linear && std::any_of(view->offset, view->offset + 9, [](float k) { return k != 0; });
    compose(*view, work, wanted ? mean : nullptr);
    const Linear colour(view->matrix, view->offset, mean, normal);
    Blur blur(*view);
    if (!linear) torchvision_colour(*view, normal, work);
    work.window = linear ? 2 * view->radius + 1 : size;
    int ready = 0;  // coloured rows
    for (int y = 0; y < size; ++y) {
      const size_t start = size_t(y) * work.row;
      float* const there = static_cast<float*>(view->out) + start;
      const float* row = buffer.data();
      const bool past = dtype == 0 && aligned(there);
      if (view->radius > 0) {
        for (; linear && ready < std::min(y + view->radius + 1, size); ++ready)
          colour.row<false>(work.canvas(ready), work.coloured(ready), work.row, work.line());
        row = dtype == 0 ? there : buffer.data();
        blur.apply(work, y, const_cast<float*>(row), past);
      } else if (linear) {
        const bool direct = dtype == 0 && work.row % kLanes == 0;
        float* const out = direct ? there : buffer.data();
        if (direct && past) colour.row<true>(work.canvas(y), out, work.row, work.line());
        else colour.row<false>(work.canvas(y), out, work.row, work.line());
        row = out;
      } else {
        row = work.coloured(y);
      }
      if (row != there) write_row(row, view->out, start, work.row, dtype);
    }
  }
  end_of_stores();
}

}  // extern "C"
