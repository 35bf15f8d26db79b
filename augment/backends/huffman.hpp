// Reads the coefficients of a JPEG's only scan, for libjpeg to make pixels of: its own way is most of a decode.
//
// Baseline JPEG with Huffman codes, all channels in one scan (ITU-T T.81, annexes B and F). A look-up of ten bits gives
// up to two coefficients at once, their bits included. What is odd in any way is refused: libjpeg then judges the file.

#pragma once

#include <array>
#include <utility>

#include "common.hpp"

namespace huffman {

constexpr size_t kBeyond = 4096;  // more bytes than blocks that are read together can have
constexpr int kBits = 10;  // of a look-up; with 11 or 12 the tables leave the processor's first cache

constexpr uint8_t kNatural[64] = {0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
                                  41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
                                  30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

// The coefficient that a number of `size` bits stands for.
inline int32_t signed_of(uint32_t bits, int size) {
  return size && bits >> (size - 1) == 0 ? int32_t(bits) - (1 << size) + 1 : int32_t(bits);
}

// What the next ten bits begin with. length 0: `one_length` bits of a code, whose symbol is `first`, and bits of the
// coefficient beyond the ten; where that is 0 too, a longer code.
struct Entry {
  int16_t first, second;       // coefficients; the same one twice where there is only one
  uint8_t step, further;       // from what was before to the first, from that to the second; kEnd: the block ends
  uint8_t length, one_length;  // bits of all, and of the first alone
};
constexpr uint8_t kEnd = 64;

class Table {
 public:
  // `counts`: of codes by length, 1 to 16 bits. False where they cannot be codes.
  bool set(const uint8_t* counts, const uint8_t* symbols, int n, bool dc) {
    if (n_ == n && dc_ == dc && !std::memcmp(counts_, counts, 16) && !std::memcmp(symbols_, symbols, n)) return true;
    n_ = 0, dc_ = dc;
    std::memcpy(counts_, counts, 16);
    std::memcpy(symbols_, symbols, n);
    Entry one[1 << kBits] = {};
    uint32_t code = 0;
    int k = 0;
    for (int length = 1; length <= 16; ++length, code <<= 1) {
      first_[length] = int32_t(code) - k;
      for (int i = 0; i < counts[length - 1]; ++i, ++code, ++k) {
        if (code >> length || (dc && symbols[k] > 15)) return false;
        if (length <= kBits) single(one, code, length, symbols[k]);
      }
      beyond_[length] = code << (16 - length);  // codes of so many bits are below it
    }
    for (int p = 0; p < 1 << kBits; ++p) {
      Entry e = one[p];
      const Entry& next = one[p << e.length & ((1 << kBits) - 1)];
      if (!dc && e.step < kEnd && e.length && next.length && e.length + next.length <= kBits) {
        if (next.step < kEnd) e.second = next.first;
        e.further = next.step, e.length += next.length;
      }
      entries_[p] = e;
    }
    n_ = n;
    return true;
  }

  bool there() const { return n_ > 0; }
  const Entry& at(uint64_t bits) const { return entries_[bits >> (64 - kBits)]; }

  // Symbol and length of the code that `bits` begin with, where their entry has no length; length 0 for none.
  std::pair<int, int> symbol(const Entry& entry, uint64_t bits) const {
    if (entry.one_length) return {entry.first, entry.one_length};
    const uint32_t top = uint32_t(bits >> 48);
    for (int length = kBits + 1; length <= 16; ++length)
      if (top < beyond_[length]) return {symbols_[int32_t(top >> (16 - length)) - first_[length]], length};
    return {0, 0};
  }

 private:
  // Every ten bits that begin with this code, and have all of its coefficient's bits.
  void single(Entry* entries, uint32_t code, int length, int symbol) const {
    const int size = symbol & 15, run = symbol >> 4, all = length + size;
    const bool ends = !dc_ && symbol == 0;
    if (all > kBits || (!dc_ && size == 0 && !ends)) {
      Entry e{};
      e.first = int16_t(symbol), e.one_length = uint8_t(length);
      std::fill_n(entries + (code << (kBits - length)), 1u << (kBits - length), e);
      return;
    }
    for (uint32_t bits = 0; bits < 1u << size; ++bits) {
      Entry e{};
      e.first = e.second = int16_t(signed_of(bits, size));
      e.step = uint8_t(ends ? kEnd : run + 1), e.length = e.one_length = uint8_t(all);
      const uint32_t from = (code << size | bits) << (kBits - all);
      std::fill_n(entries + from, 1u << (kBits - all), e);
    }
  }

  Entry entries_[1 << kBits];
  uint32_t beyond_[17];
  int32_t first_[17];
  uint8_t counts_[16], symbols_[256];
  int n_ = 0;
  bool dc_ = false;
};

// Bits of a part of the scan, the next one highest. `at` is in memory that goes on behind them.
struct Bits {
  const uint8_t* at = nullptr;
  uint64_t buffer = 0;
  int count = 0;

  // At least 56 of them.
  void fill() {
    uint64_t next;
    std::memcpy(&next, at, 8);
    if (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__) next = __builtin_bswap64(next);
    buffer |= next >> count;
    at += (63 - count) >> 3;
    count |= 56;
  }
  void drop(int n) { buffer <<= n, count -= n; }
  uint32_t take(int n) {
    const uint32_t bits = n ? uint32_t(buffer >> (64 - n)) : 0;
    drop(n);
    return bits;
  }
};

class Scan {
 public:
  // To be called with each segment of a header in order, and `begin` with the one that begins the scan.
  void clear() {
    usable_ = true, components_ = interval_ = 0;
    given_ = {};
  }
  void segment(int marker, const uint8_t* body, int64_t n) {
    if (marker == 0xC4) usable_ &= tables(body, n);
    else if (marker == 0xC0 || marker == 0xC1) usable_ &= frame(body, n);
    else if (marker == 0xDD) usable_ &= n == 2, interval_ = n == 2 ? body[0] << 8 | body[1] : 0;
    else if (marker > 0xC1 && marker < 0xD0) usable_ = false;  // progressive, lossless, arithmetic
  }
  // False where the scan is not for this reader. `eighth`: pictures are made an eighth in width and height, which takes
  // no more of most blocks than their mean.
  bool begin(const uint8_t* body, int64_t n, const uint8_t* end, bool eighth) {
    if (!usable_ || !components_ || n != 4 + 2 * components_ || body[0] != components_) return false;
    const uint8_t* last = body + n - 3;
    if (last[0] != 0 || last[1] != 63 || last[2] != 0) return false;
    int most_across = 0, most_down = 0;
    for (int c = 0; c < components_; ++c)
      most_across = std::max(most_across, parts_[c].across), most_down = std::max(most_down, parts_[c].down);
    blocks_ = 0;
    for (int c = 0; c < components_; ++c) {
      const int id = body[1 + 2 * c], dc = body[2 + 2 * c] >> 4, ac = body[2 + 2 * c] & 15;
      Component& part = parts_[c];
      if (id != part.id || dc > 3 || ac > 3 || !given_[0][dc] || !given_[1][ac]) return false;
      part.dc = &tables_[0][dc], part.ac = &tables_[1][ac];
      part.mean_only = eighth && part.across == most_across && part.down == most_down;
      const int count = components_ == 1 ? 1 : part.across * part.down;
      if (blocks_ + count > 10) return false;
      for (int i = 0; i < count; ++i) of_[blocks_++] = c;
    }
    rest_ = body + n, end_ = end;
    restarts_ = 0;
    part();
    return true;
  }

  // The coefficients of the next blocks, 64 each, zeros until now; null: none are wanted. False: damaged, or odd.
  bool next(int16_t** blocks) {
    if (interval_ && !left_) {
      if (!marker(0xD0 + restarts_++ % 8)) return false;
      part();
    }
    --left_;
    Bits bits = bits_;  // a copy stays in registers
    for (int b = 0; b < blocks_; ++b) {
      Component& part = parts_[of_[b]];
      int16_t* const block = blocks ? blocks[b] : spare_;
      bits.fill();
      const Entry& e = part.dc->at(bits.buffer);
      int32_t change = e.first;
      bits.drop(e.length);
      if (!e.length) {
        const auto [size, length] = part.dc->symbol(e, bits.buffer);
        if (!length) return false;
        bits.drop(length);
        change = signed_of(bits.take(size), size);
      }
      part.mean += change;
      if (part.mean != int16_t(part.mean)) return false;
      block[0] = int16_t(part.mean);
      if (!rest(bits, *part.ac, part.mean_only ? spare_ : block)) return false;
    }
    bits_ = bits;
    return left_over() >= 0;
  }

  // Whether the picture ends here.
  bool ended() { return marker(0xD9); }

 private:
  struct Component {
    int id, across, down;
    const Table *dc, *ac;
    int32_t mean;
    bool mean_only;
  };

  // Begins with what lies before the next marker: without the zeros that are stuffed behind 0xFF there.
  void part() {
    const size_t most = size_t(end_ - rest_) + kBeyond;
    if (plain_.size() < most) plain_.resize(most);
    uint8_t* to = plain_.data();
    for (;;) {
      const void* const found = std::memchr(rest_, 0xFF, size_t(end_ - rest_));
      const uint8_t* const upto = found ? static_cast<const uint8_t*>(found) : end_;
      std::memcpy(to, rest_, size_t(upto - rest_));
      to += upto - rest_, rest_ = upto;
      if (end_ - rest_ < 2 || rest_[1]) break;
      *to++ = 0xFF, rest_ += 2;
    }
    std::memset(to, 0, kBeyond);
    size_ = to - plain_.data();
    bits_ = Bits{plain_.data()};
    left_ = interval_;
    for (auto& part : parts_) part.mean = 0;
  }

  // Bits of the part that are not read yet; below 0 where there were too few.
  int64_t left_over() const { return 8 * (size_ - (bits_.at - plain_.data())) + bits_.count; }

  // Whether all of the part was read, and that marker follows. Goes behind it.
  bool marker(int code) {
    while (end_ - rest_ > 2 && rest_[1] == 0xFF) ++rest_;  // fill
    if (left_over() >= 8 || end_ - rest_ < 2 || rest_[1] != code) return false;
    rest_ += 2;
    return true;
  }

  // All of a block but its first.
  static bool rest(Bits& bits, const Table& table, int16_t* block) {
    int k = 0;
    for (;;) {
      bits.fill();
      Entry e;
#pragma GCC unroll 3
      for (int i = 0; i < 3; ++i) {  // 56 bits are enough for three, whatever the last one is
        e = table.at(bits.buffer);
        if (!e.length) break;
        k += e.step;
        if (k >= 63) {  // the last one, or the end; what comes after it is the next block's
          bits.drop(e.one_length);
          if (e.step == kEnd) return true;
          block[63] = e.first;
          return k == 63;
        }
        bits.drop(e.length);
        block[kNatural[k]] = e.first;
        k += e.further;
        if (k >= 63) {
          if (e.further == kEnd) return true;
          block[63] = e.second;
          return k == 63;
        }
        block[kNatural[k]] = e.second;
      }
      if (e.length) continue;
      const auto [symbol, length] = table.symbol(e, bits.buffer);
      bits.drop(length);
      const int size = symbol & 15;
      if (!length || symbol == 0) return length;
      k += (symbol >> 4) + 1;
      if (k > 63 || (!size && (symbol != 0xF0 || k == 63))) return false;  // after sixteen zeros something must follow
      if (!size) continue;
      block[kNatural[k]] = int16_t(signed_of(bits.take(size), size));
      if (k == 63) return true;
    }
  }

  bool tables(const uint8_t* body, int64_t n) {
    while (n > 0) {
      if (n < 17) return false;
      const int kind = body[0] >> 4, id = body[0] & 15;
      int count = 0;
      for (int i = 1; i <= 16; ++i) count += body[i];
      if (kind > 1 || id > 3 || count < 1 || count > 256 || 17 + count > n) return false;
      if (!tables_[kind][id].set(body + 1, body + 17, count, kind == 0)) return false;
      given_[kind][id] = true;
      body += 17 + count, n -= 17 + count;
    }
    return true;
  }

  bool frame(const uint8_t* body, int64_t n) {
    if (components_ || n < 6 || body[0] != 8 || (body[5] != 1 && body[5] != 3) || n != 6 + 3 * body[5]) return false;
    components_ = body[5];
    for (int c = 0; c < components_; ++c) {
      const uint8_t* from = body + 6 + 3 * c;
      parts_[c] = {from[0], from[1] >> 4, from[1] & 15, nullptr, nullptr, 0, false};
      if (parts_[c].across < 1 || parts_[c].across > 4 || parts_[c].down < 1 || parts_[c].down > 4) return false;
    }
    return true;
  }

  Table tables_[2][4];  // kept from picture to picture: many files have the same ones
  std::array<std::array<bool, 4>, 2> given_{};  // in this picture
  Component parts_[3] = {};
  std::vector<uint8_t> plain_;  // the part of the scan that is under way
  int64_t size_ = 0;            // bytes of it
  const uint8_t *rest_ = nullptr, *end_ = nullptr;  // what follows it in the file
  Bits bits_;
  int16_t spare_[64];  // for coefficients that nobody wants
  int of_[10] = {}, blocks_ = 0, components_ = 0, interval_ = 0, left_ = 0, restarts_ = 0;
  bool usable_ = false;
};

}  // namespace huffman
