// torchvision's colour for views.cpp.

#pragma once

#include "common.hpp"

namespace {

// torchvision's functional operations on planes r, g, b of n pixels in [0, 255], clamped after each.
struct Planes {
  float *r, *g, *b;
  int n;

  static float clamped(float x) { return std::min(std::max(x, 0.f), 255.f); }
  float luma(int i) const { return 0.2989f * r[i] + 0.587f * g[i] + 0.114f * b[i]; }

  void scale(float factor) {
    for (int i = 0; i < n; ++i) r[i] = clamped(factor * r[i]), g[i] = clamped(factor * g[i]), b[i] = clamped(factor * b[i]);
  }
  void contrast(float factor) {
    double total = 0;
    for (int from = 0; from < n; from += 4096) {  // short float sums, so that they vectorise and stay exact enough
      float part[16] = {};
      const int to = std::min(from + 4096, n);
      for (int i = from; i + 16 <= to; i += 16)
        for (int l = 0; l < 16; ++l) part[l] += luma(i + l);
      for (int i = from + (to - from) / 16 * 16; i < to; ++i) part[0] += luma(i);
      for (float p : part) total += p;
    }
    const float shift = (1 - factor) * float(total / n);
    for (int i = 0; i < n; ++i) {
      r[i] = clamped(factor * r[i] + shift);
      g[i] = clamped(factor * g[i] + shift);
      b[i] = clamped(factor * b[i] + shift);
    }
  }
  void saturation(float factor) {
    for (int i = 0; i < n; ++i) {
      const float shift = (1 - factor) * luma(i);
      r[i] = clamped(factor * r[i] + shift);
      g[i] = clamped(factor * g[i] + shift);
      b[i] = clamped(factor * b[i] + shift);
    }
  }
  // HSV: channel = v - v·s·clamp(min(k, 4 - k), 0, 1), k = (5, 3, 1 + 6h) mod 6.
  void hue(float turns) {
    for (int i = 0; i < n; ++i) {
      const float red = r[i], green = g[i], blue = b[i];
      const float v = std::max(std::max(red, green), blue), range = v - std::min(std::min(red, green), blue);
      const float inverse = 1.f / (range > 0 ? range : 1.f);
      float h = v == red ? (green - blue) * inverse
                         : (v == green ? 2 + (blue - red) * inverse : 4 + (red - green) * inverse);
      h += 6 * turns + 12;
      const auto channel = [&](float first) {
        float k = first + h;
        k -= 6 * float(int(k * (1 / 6.f)));
        return v - range * std::max(0.f, std::min(std::min(k, 4 - k), 1.f));
      };
      r[i] = channel(5), g[i] = channel(3), b[i] = channel(1);
    }
  }
  void gray() {
    for (int i = 0; i < n; ++i) r[i] = g[i] = b[i] = luma(i);
  }
};

}  // namespace
