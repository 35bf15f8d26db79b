// The part of libjpeg's interface that jpeg.cpp uses, declared here because wheels bring the library without headers.
//
// Only first fields of its structures are named. They are the same in the versions 6b (62), 7 (70) and 8 (80) of the
// interface, all of which libjpeg-turbo is built as; what follows them differs and is left to the library. It says
// itself which version it is and how large its structure is: see `jpeg_open`. Booleans are ints on every Unix.

#pragma once

#include <csetjmp>
#include <cstddef>
#include <cstdint>

namespace libjpeg {

enum { kGray = 1, kRgb = 2, kYcc = 3 };  // colour spaces

struct Decompress;

struct Errors {
  void (*error_exit)(Decompress*);  // must not return
  void (*emit_message)(Decompress*, int level);  // level -1: the file is damaged
  void (*output_message)(Decompress*);
  void (*format_message)(Decompress*, char*);
  void (*reset)(Decompress*);
  int code;
  union {
    int i[8];
    char s[80];
  } parameters;
  int trace_level;
  long warnings;
  const char* const* messages;
  int last_message;
  const void* added_messages;
  int first_added, last_added;
};

struct Decompress {
  Errors* errors;
  void *memory, *progress, *client_data;
  int is_decompressor, state;
  void* source;
  uint32_t image_width, image_height;
  int components, jpeg_colours, out_colours;
  uint32_t scale_numerator, scale_denominator;
  double gamma;
  int buffered_image, raw_data_out, dct_method, fancy_upsampling, block_smoothing, quantize_colours, dither, two_pass,
      wanted_colours, one_pass_later, external_later, two_pass_later;
  uint32_t output_width, output_height;
  int out_components, output_components, rows_at_once, actual_colours;
  uint8_t** colour_map;
  uint32_t output_scanline;
};

// Its functions, in the order of augment/backends/jpeg.py's FUNCTIONS.
struct Functions {
  Errors* (*std_error)(Errors*);
  void (*create)(Decompress*, int version, size_t structure);
  void (*destroy)(Decompress*);
  void (*memory_source)(Decompress*, const unsigned char*, unsigned long);
  int (*read_header)(Decompress*, int require_image);
  int (*start)(Decompress*);
  void (*crop)(Decompress*, uint32_t* x, uint32_t* width);
  uint32_t (*skip)(Decompress*, uint32_t rows);
  uint32_t (*read)(Decompress*, uint8_t** rows, uint32_t count);
  int (*finish)(Decompress*);
  void (*abort)(Decompress*);
};

}  // namespace libjpeg
