// Decodes of JPEGs what crops read of them, and cuts the crops while the pixels are in the processor's cache.
//
// By libjpeg-turbo, found by augment/backends/jpeg.py: rows above and columns of blocks beside what is read are skipped
// (their codes must be read, the rest need not be computed), rows below are not even looked at. The pixels are those of
// the whole decode, to the bit. A file that this way does not take, or that libjpeg warns of, is left to the caller,
// whose decoder then judges it.

#include <memory>
#include <new>

#include "crops.hpp"
#include "libjpeg.hpp"

using libjpeg::Decompress;
using libjpeg::Errors;

extern "C" {

struct JpegLibrary {
  libjpeg::Functions functions;
  int32_t version, structure;  // of its interface; bytes of its structure
};

// The pictures of a batch. Threads that work on it together take the next picture each.
struct JpegBatch {
  const uint8_t* const* data;
  const int64_t* sizes;
  const int64_t* first;  // [count + 1]: where each picture's crops begin
  Crop* crops;
  int32_t* status;  // of each picture: see `Status`
  const int32_t* shrink;  // of each picture, 1, 2, 4 or 8: it is decoded at that part of its width and height
  int32_t count, next;
};

}  // extern "C"

namespace {

// DONE; the caller decodes the others. kRefused: libjpeg's error or warning; kOther: not upright, or no JPEG with 1 or 3
// channels; kOutside: a crop leaves the picture.
enum Status { kDone, kRefused, kOther, kOutside, kNoMemory };

constexpr size_t kMostStructure = 4096;  // bytes; it takes about 660
// Chroma is interpolated between neighbours. At a cut edge there is none: two more pixels make it come out the same.
constexpr uint32_t kMargin = 2;

struct JumpingErrors : Errors {
  jmp_buf back;
};

void jump_back(Decompress* d) { longjmp(static_cast<JumpingErrors*>(d->errors)->back, 1); }
void jump_if_damaged(Decompress* d, int level) {
  if (level < 0) jump_back(d);
}
void say_nothing(Decompress*) {}

// One thread's, kept from picture to picture.
class Decoder {
 public:
  ~Decoder() { close(); }

  // False where the library refuses.
  bool open(const JpegLibrary& library) {
    if (open_ && !std::memcmp(&library_, &library, sizeof library)) return true;
    close();
    library.functions.std_error(&errors_);
    errors_.error_exit = jump_back, errors_.emit_message = jump_if_damaged, errors_.output_message = say_nothing;
    std::memset(bytes_, 0, sizeof bytes_);
    at()->errors = &errors_;
    if (setjmp(errors_.back)) return false;
    library.functions.create(at(), library.version, size_t(library.structure));
    library_ = library, open_ = true;
    return true;
  }

  // Asks the library for the version and size of its structure: it names them in its errors where they are not met.
  static bool ask(JpegLibrary& library) {
    Decoder asking;
    library.functions.std_error(&asking.errors_);
    asking.errors_.error_exit = jump_back, asking.errors_.output_message = say_nothing;
    asking.at()->errors = &asking.errors_;
    for (int32_t* answer : {&library.version, &library.structure}) {
      *answer = 0;
      if (!asking.refuses(library)) return false;
      *answer = asking.errors_.parameters.i[0];
    }
    const bool known = library.version == 62 || library.version == 70 || library.version == 80;
    return known && library.structure >= int(sizeof(Decompress)) && library.structure <= int(kMostStructure);
  }

  // The crops of one picture, to their places.
  Status cut(const uint8_t* data, int64_t size, int32_t shrink, Crop* jobs, int64_t n) {
    if (!upright(data, size)) return kOther;
    const libjpeg::Functions& call = library_.functions;
    Decompress* const d = at();
    if (setjmp(errors_.back)) {
      call.abort(d);
      return kRefused;
    }
    const Status status = decode(data, size, shrink, jobs, n);
    if (status != kDone) call.abort(d);
    return status;
  }

 private:
  Decompress* at() { return reinterpret_cast<Decompress*>(bytes_); }

  bool refuses(const JpegLibrary& library) {
    if (setjmp(errors_.back)) return true;
    library.functions.create(at(), library.version, size_t(library.structure));
    library.functions.destroy(at());
    return false;
  }

  void close() {
    if (open_) library_.functions.destroy(at());
    open_ = false;
  }

  // May leave by longjmp: nothing in here has a destructor.
  Status decode(const uint8_t* data, int64_t size, int32_t shrink, Crop* jobs, int64_t n) {
    const libjpeg::Functions& call = library_.functions;
    Decompress* const d = at();
    call.memory_source(d, data, static_cast<unsigned long>(size));
    call.read_header(d, 1);
    if (d->jpeg_colours < libjpeg::kGray || d->jpeg_colours > libjpeg::kYcc) return kOther;
    if (d->components != 1 && d->components != 3) return kOther;
    Crop all = jobs[0];  // what they read
    for (int64_t i = 0; i < n; ++i) {
      const Crop& c = jobs[i];
      if (c.x0 < 0 || c.y0 < 0 || c.x1 <= c.x0 || c.y1 <= c.y0) return kOutside;
      all.x0 = std::min(all.x0, c.x0), all.x1 = std::max(all.x1, c.x1);
      all.y0 = std::min(all.y0, c.y0), all.y1 = std::max(all.y1, c.y1);
    }
    if (uint32_t(all.x1) > d->image_width || uint32_t(all.y1) > d->image_height) return kOutside;
    all.x0 /= shrink, all.x1 = (all.x1 + shrink - 1) / shrink;  // in decoded pixels from here on
    all.y0 /= shrink, all.y1 = (all.y1 + shrink - 1) / shrink;
    const uint32_t right = uint32_t(all.x1), bottom = uint32_t(all.y1);
    d->out_colours = libjpeg::kRgb;
    d->scale_numerator = 1, d->scale_denominator = uint32_t(shrink);
    call.start(d);
    if (right > d->output_width || bottom > d->output_height) return kRefused;
    const uint32_t full = d->output_width, height = d->output_height;
    uint32_t left = uint32_t(all.x0) - std::min(uint32_t(all.x0), kMargin);
    uint32_t width = std::min(right + kMargin, full) - left;
    if (width < full) call.crop(d, &left, &width);  // moves `left` to the edge of a block
    else left = 0;
    const uint32_t top = uint32_t(all.y0) - std::min(uint32_t(all.y0), kMargin);
    if (top && call.skip(d, top) != top) return kRefused;
    const size_t stride = 3 * size_t(d->output_width), needed = stride * (bottom - top);
    if (room_ < needed) {
      pixels_.reset(new (std::nothrow) uint8_t[needed]);
      room_ = pixels_ ? needed : 0;
      if (!pixels_) return kNoMemory;
    }
    while (d->output_scanline < bottom) {
      const uint32_t row = d->output_scanline, count = std::min(bottom - row, kRows);
      uint8_t* rows[kRows];
      for (uint32_t i = 0; i < count; ++i) rows[i] = pixels_.get() + (row - top + i) * stride;
      if (call.read(d, rows, count) == 0) return kRefused;
    }
    if (bottom == height) call.finish(d);  // the end marker must be there
    else call.abort(d);
    const int32_t kept = int32_t(bottom - top);
    return cut_from(pixels_.get(), int32_t(stride / 3), kept, int32_t(left), int32_t(top), shrink, jobs, n);
  }

  // `pixels` are packed [height, width, 3], a part of the picture from (left, top) on.
  static Status cut_from(const uint8_t* pixels, int32_t width, int32_t height, int32_t left, int32_t top,
                         int32_t shrink, Crop* jobs, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      Crop c = jobs[i];
      c.unit = shrink;
      c.x0 -= left * shrink, c.x1 -= left * shrink, c.y0 -= top * shrink, c.y1 -= top * shrink;
      const bool copied = shrink == 1 && c.width == c.x1 - c.x0 && c.height == c.y1 - c.y0 && !c.flip;
      if (!copied && crops(pixels, width, height, 1, &c)) return kOutside;
      for (int32_t y = 0; copied && y < c.height; ++y)
        std::memcpy(c.out + 3 * size_t(y) * c.width, pixels + 3 * (size_t(c.y0 + y) * width + c.x0), 3 * size_t(c.width));
    }
    return kDone;
  }

  static uint32_t number(const uint8_t* at, int bytes, bool big) {
    uint32_t value = 0;
    for (int i = 0; i < bytes; ++i) value |= uint32_t(at[i]) << 8 * (big ? bytes - 1 - i : i);
    return value;
  }

  // Whether a JPEG's header names no other orientation than upright. (Its callers know it to be well-formed; where it is
  // not, the answer is no.)
  static bool upright(const uint8_t* data, int64_t size) {
    if (size < 4 || data[0] != 0xFF || data[1] != 0xD8) return false;
    for (int64_t at = 2; at + 4 <= size;) {
      if (data[at] != 0xFF) return false;
      if (data[at + 1] == 0xFF) {  // fill
        ++at;
        continue;
      }
      const int marker = data[at + 1];
      const int64_t length = data[at + 2] << 8 | data[at + 3];
      if (length < 2 || at + 2 + length > size) return false;
      if (marker == 0xDA) return true;
      const uint8_t* body = data + at + 4;
      if (marker == 0xE1 && length >= 6 && !std::memcmp(body, "Exif", 4) && !upright_exif(body + 6, length - 8)) return false;
      at += 2 + length;
    }
    return false;
  }

  static bool upright_exif(const uint8_t* tiff, int64_t size) {
    if (size < 8) return false;
    const bool big = tiff[0] == 'M';
    const int64_t start = number(tiff + 4, 4, big);
    if (start + 2 > size) return false;
    const int64_t entries = number(tiff + start, 2, big);
    if (start + 2 + 12 * entries > size) return false;
    for (int64_t i = 0; i < entries; ++i) {
      const uint8_t* entry = tiff + start + 2 + 12 * i;
      if (number(entry, 2, big) == 0x0112) {
        const uint32_t value = number(entry + 8, 2, big);
        if (value != 0 && value != 1) return false;
      }
    }
    return true;
  }

  static constexpr uint32_t kRows = 16;  // asked for at once; libjpeg gives as many as it makes together
  JpegLibrary library_{};  // a copy: another one may come to lie at the same address
  bool open_ = false;
  JumpingErrors errors_;
  alignas(64) uint8_t bytes_[kMostStructure] = {};
  std::unique_ptr<uint8_t[]> pixels_;
  size_t room_ = 0;
};

}  // namespace

extern "C" {

// Fills in what `library.functions` say of themselves. Returns 1 for an interface that is not known here, else 0.
int32_t jpeg_open(JpegLibrary* library) { return Decoder::ask(*library) ? 0 : 1; }

// Works on a batch until no picture is left, beside other threads that do.
void jpeg_crops(const JpegLibrary* library, JpegBatch* batch) {
  thread_local Decoder decoder;
  const bool open = decoder.open(*library);
  for (;;) {
    const int32_t i = __atomic_fetch_add(&batch->next, 1, __ATOMIC_RELAXED);
    if (i >= batch->count) return;
    const int64_t first = batch->first[i], n = batch->first[i + 1] - first;
    batch->status[i] = !n      ? kDone
                       : open ? decoder.cut(batch->data[i], batch->sizes[i], batch->shrink[i], batch->crops + first, n)
                              : kRefused;
  }
}

}  // extern "C"
