// What crops.cpp does for the others.

#pragma once

#include "common.hpp"

extern "C" {

// A crop of an image, resized; `out` is packed [height, width, 3]. The ROI is in `unit`s of a pixel: 1 (or 0), or 2, 4, 8
// where each pixel of `image` stands for so many of the original by as many.
struct Crop {
  int32_t x0, y0, x1, y1, width, height, flip, unit;
  uint8_t* out;
};

// Decoded pictures [heights[i], widths[i], 3], packed, and their crops. Threads that work on it together take the next
// picture each.
struct PictureBatch {
  const uint8_t* const* pixels;
  const int32_t *widths, *heights;
  const int64_t* first;  // [count + 1]: where each picture's crops begin
  const Crop* crops;
  int32_t count, next;
  int32_t left;  // a picture that a crop leaves, or -1
};

int32_t crops(const uint8_t* image, int32_t image_width, int32_t image_height, int32_t n, const Crop* jobs);

}  // extern "C"
