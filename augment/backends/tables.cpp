// The tables of a batch for the kernels on CUDA, in one pass over its views. In NumPy, of which each call costs about as
// much as the numbers of a whole batch, the same takes several times as long (augment/backends/tables.py: `in_numpy`);
// the tests hold both to the same bytes.

#include "crops.hpp"
#include "views.hpp"

// A product and a sum are rounded one by one, as in NumPy.
#if defined(__clang__)
#pragma clang fp contract(off)
#else
#pragma GCC optimize("fp-contract=off")
#endif

extern "C" {

// augment.backends.layout.JOB; `crop.out` and `image` are counted from the memory for all crops.
struct Job {
  Crop crop;
  int64_t image;
  int32_t stride, unused;
};

struct Tables {
  // Of the plan: augment.views.plan.Plan, and the cosine and sine of each view's turn of hue.
  const int64_t *source_slot, *background_slot;
  const int32_t *patch, *scene, *rects;
  const uint8_t *flip, *gray, *jittered, *order;
  const float *jitter, *sigma;
  const double *cosine, *sine;
  const double* colour;  // luma [3]; by rows [9]: to luma, to chroma, a quarter turn of chroma (augment.views.colour)
  // Of the pictures: augment.backends.addressed.Addressed. `corner` and `kept_scenes` may be null.
  const int64_t *address, *sides;
  const int32_t* corner;
  const int64_t* kept_scenes;
  // Made by `fill_tables`.
  Job* jobs;
  View* table;
  int32_t *plain, *blurred;  // numbers of views
  uint16_t* weights;         // float16 [blurs, tile * (chunks + 1)]
  int64_t cuts;              // address of the memory for all crops
  int64_t total;             // its bytes; this and what follows `chunks` is found by `measure_tables`
  int32_t sources, views, images, size, shared, transparent, tile, chunks;
  int32_t crops, widest, highest, blurs, reach;
};

void measure_tables(Tables* of);
int32_t fill_tables(Tables* of);

}  // extern "C"

namespace {

int32_t side(const int32_t* rect, int axis) { return std::max(rect[axis + 2] - rect[axis], 0); }

int64_t patch_bytes(const Tables& of, int i) {
  return 3 * static_cast<int64_t>(side(of.rects + 4 * i, 0)) * side(of.rects + 4 * i, 1);
}

// Whether the scene of a view must be cut: a patch that covers its view hides it, unless it is transparent.
bool scene_needed(const Tables& of, int i) {
  const int32_t* rect = of.rects + 4 * i;
  return of.kept_scenes == nullptr && (side(rect, 0) < of.size || side(rect, 1) < of.size || of.transparent);
}

// The views whose scenes are cut, as they are ordered before images order them; of a shared scene the first view.
std::vector<int> scenes_of(const Tables& of) {
  std::vector<int> views;
  std::vector<char> known(of.images, 0);
  for (int i = 0; i < of.sources * of.views; ++i) {
    if (!scene_needed(of, i)) continue;
    char& seen = known[of.background_slot[i]];
    if (!of.shared || !seen) views.push_back(i);
    seen = 1;
  }
  return views;
}

int64_t room_for_scenes(const Tables& of, size_t cut) {
  const int64_t many = cut == 0 ? 0 : of.shared ? of.images : of.sources * of.views;
  return many * 3 * of.size * of.size;
}

// A number from 0 to 1 as float16, halves to even, in one step: by way of a float it could be rounded twice.
uint16_t half(double x) {
  if (x < 0x1p-14) return static_cast<uint16_t>(std::nearbyint(x * 0x1p24));
  const int exponent = std::ilogb(x);
  return static_cast<uint16_t>(((exponent + 14) << 10) + static_cast<int>(std::nearbyint(std::ldexp(x, 10 - exponent))));
}

// Zeros, the 2 * radius + 1 weights of a blur, zeros: see `blur_kernel`.
void fill_weights(float sigma, int radius, int tile, std::vector<double>& weight, uint16_t* row, int length) {
  std::fill(row, row + length, uint16_t{0});
  double total = 0;
  for (int d = 0; d <= radius; ++d) {
    const double x = d / static_cast<double>(sigma);
    weight[d] = std::exp(-0.5 * (x * x));
    total += d == 0 ? weight[d] : 2 * weight[d];
  }
  for (int d = 0; d <= radius; ++d) row[tile + radius - d] = row[tile + radius + d] = half(weight[d] / total);
}

// augment.views.colour.collapse of one view.
void fill_colour(const Tables& of, int i, View& to) {
  const double *luma = of.colour, *to_luma = luma + 3, *to_chroma = luma + 12, *quarter = luma + 21;
  const double brightness = to.jitter[0], contrast = to.jitter[1], saturation = to.gray ? 0.0 : to.jitter[2];
  const double gain = brightness * contrast, rest = brightness * (1 - contrast);
  for (int n = 0; n < 9; ++n) {
    const double turned = of.cosine[i] * to_chroma[n] + of.sine[i] * quarter[n];
    to.matrix[n] = static_cast<float>((turned * saturation + to_luma[n]) * gain);
    to.offset[n] = static_cast<float>(rest * luma[n % 3]);
  }
}

void fill_view(const Tables& of, int i, int64_t scene, int64_t patch, View& to) {
  const int32_t *rect = of.rects + 4 * i, empty = side(rect, 0) == 0 || side(rect, 1) == 0;
  const int32_t flip = of.flip[i] != 0;
  to.scene = reinterpret_cast<const uint8_t*>(scene);
  to.patch = reinterpret_cast<const uint8_t*>(patch);
  const int64_t place = static_cast<int64_t>(i % of.views) * of.sources + i / of.views;  // V runs of B
  to.out = reinterpret_cast<void*>(place * 3 * of.size * of.size);
  to.rect[0] = empty ? 0 : flip ? of.size - rect[2] : rect[0];
  to.rect[1] = empty ? 0 : rect[1];
  to.rect[2] = empty ? 0 : flip ? of.size - rect[0] : rect[2];
  to.rect[3] = empty ? 0 : rect[3];
  to.flip = flip, to.gray = of.gray[i] != 0, to.jittered = of.jittered[i] != 0;
  for (int k = 0; k < 4; ++k) to.order[k] = of.order[4 * i + k], to.jitter[k] = of.jitter[4 * i + k];
  to.sigma = of.sigma[i], to.unused = 0;
  to.radius = static_cast<int32_t>(std::ceil(3 * of.sigma[i]));  // in float32: in doubles it may be one more
  fill_colour(of, i, to);
}

// Returns whether the picture has all pixels of the ROI.
bool fill_job(const Tables& of, const int32_t* roi, int64_t slot, int32_t width, int32_t height, int32_t flip,
              int64_t out, Job& to) {
  const int32_t x = of.corner ? of.corner[2 * slot] : 0, y = of.corner ? of.corner[2 * slot + 1] : 0;
  to.crop = {roi[0] - x, roi[1] - y, roi[2] - x, roi[3] - y, width, height, flip, 0, reinterpret_cast<uint8_t*>(out)};
  to.image = of.address[slot] - of.cuts, to.unused = 0;
  to.stride = static_cast<int32_t>(3 * of.sides[2 * slot]);
  const Crop& cut = to.crop;
  return cut.x0 >= 0 && cut.y0 >= 0 && cut.x1 > cut.x0 && cut.y1 > cut.y0 && cut.x1 <= of.sides[2 * slot] &&
         cut.y1 <= of.sides[2 * slot + 1];
}

}  // namespace

void measure_tables(Tables* of) {
  const size_t cut = scenes_of(*of).size();
  of->crops = static_cast<int32_t>(cut), of->blurs = of->reach = 0;
  of->widest = of->highest = cut ? of->size : 0;
  of->total = room_for_scenes(*of, cut) + 1;
  for (int i = 0; i < of->sources * of->views; ++i) {
    const int64_t bytes = patch_bytes(*of, i);
    of->total += bytes, of->crops += bytes > 0;
    if (bytes > 0) {
      of->widest = std::max(of->widest, side(of->rects + 4 * i, 0));
      of->highest = std::max(of->highest, side(of->rects + 4 * i, 1));
    }
    if (of->sigma[i] > 0) ++of->blurs, of->reach = std::max(of->reach, static_cast<int32_t>(std::ceil(3 * of->sigma[i])));
  }
}

// Returns 1 where a crop leaves its picture, else 0.
int32_t fill_tables(Tables* of) {
  const int views = of->sources * of->views;
  const int64_t area = 3 * static_cast<int64_t>(of->size) * of->size;
  const std::vector<int> scenes = scenes_of(*of);
  std::vector<int32_t> place(of->images + 1, 0);  // of each image's next job
  for (int i = 0; i < views; ++i) place[of->source_slot[i / of->views] + 1] += patch_bytes(*of, i) > 0;
  for (int i : scenes) ++place[of->background_slot[i] + 1];
  for (int n = 0; n < of->images; ++n) place[n + 1] += place[n];
  std::vector<double> weight(of->reach + 1);
  bool good = true;
  int32_t plains = 0, blurs = 0;
  int64_t patch = room_for_scenes(*of, scenes.size());
  for (int i = 0; i < views; ++i) {
    const int64_t slot = of->source_slot[i / of->views], ground = of->background_slot[i];
    const int64_t scene = of->kept_scenes ? of->kept_scenes[ground] - of->cuts : (of->shared ? ground : i) * area;
    View& view = of->table[i];
    fill_view(*of, i, scene, patch, view);
    if (const int64_t bytes = patch_bytes(*of, i)) {
      const int32_t *rect = of->rects + 4 * i, width = side(rect, 0), height = side(rect, 1);
      good &= fill_job(*of, of->patch + 4 * i, slot, width, height, view.flip, patch, of->jobs[place[slot]++]);
      patch += bytes;
    }
    if (of->sigma[i] > 0) {
      const int length = of->tile * (of->chunks + 1);
      uint16_t* row = of->weights + static_cast<int64_t>(blurs) * length;
      fill_weights(of->sigma[i], view.radius, of->tile, weight, row, length);
      of->blurred[blurs++] = i;
    } else {
      of->plain[plains++] = i;
    }
  }
  for (int i : scenes) {
    const int64_t slot = of->background_slot[i], out = (of->shared ? slot : i) * area;
    good &= fill_job(*of, of->scene + 4 * i, slot, of->size, of->size, 0, out, of->jobs[place[slot]++]);
  }
  return !good;
}
