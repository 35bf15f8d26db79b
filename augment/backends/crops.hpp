// What crops.cpp does for the others.

#pragma once

#include "common.hpp"

extern "C" {

// A crop of an image, resized; `out` is packed [height, width, 3].
struct Crop {
  int32_t x0, y0, x1, y1, width, height, flip, unused;
  uint8_t* out;
};

void crops(const uint8_t* image, int64_t stride, int32_t n, const Crop* jobs);

}  // extern "C"
