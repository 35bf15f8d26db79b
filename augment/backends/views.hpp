// What views.cpp finishes, on the CPU; the kernels on CUDA read the same record (tables.cpp).

#pragma once

#include "common.hpp"

extern "C" {

// One view; `scene` and `patch` are packed, the patch is flipped already and `rect` is where it lies after the flip.
struct View {
  const uint8_t* scene;
  const uint8_t* patch;
  void* out;  // [size, size, 3] of the output type
  int32_t rect[4];
  int32_t flip, gray, jittered, radius;
  int32_t order[4];
  float jitter[4];
  float matrix[9], offset[9];
  float sigma, unused;
};

}  // extern "C"
