// Reads many files into one piece of memory: no object of Python and no fresh memory for each.

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <string>

extern "C" {

// Files to read. Threads that work on it together take the next file each.
struct FileBatch {
  const char* root;       // of all paths
  const char* paths;      // [count, width], padded with zeros
  const int64_t* sizes;   // bytes that each should have
  const int64_t* starts;  // where each begins in `memory`, which has room for one byte more than its size there
  uint8_t* memory;
  int32_t* status;  // set to a Status
  int64_t width;
  int32_t count, next;
};

void read_files(FileBatch* batch);

}  // extern "C"

namespace {

// Sound: as long as it should be, a JPEG by its ends, and no run of zeros, as a part has that was never written.
enum Status : int32_t { kSound, kComplete, kOther };

constexpr int64_t kZeros = 64;  // in a row
#ifdef O_PATH
constexpr int kFolder = O_PATH;  // one may be passed through that may not be listed
#else
constexpr int kFolder = O_RDONLY;
#endif

// A run of kZeros holds one byte of every kZeros: those are looked at, and where one is 0 what is around it.
bool has_zeros(const uint8_t* data, int64_t size) {
  for (int64_t at = kZeros - 1; at < size; at += kZeros) {
    if (data[at] != 0) continue;
    int64_t low = at, high = at + 1;
    while (low > 0 && data[low - 1] == 0) --low;
    while (high < size && data[high] == 0) ++high;
    if (high - low >= kZeros) return true;
  }
  return false;
}

// Whether one call reads just `size` bytes. One more is asked for, since a longer file is another one.
bool read_whole(int root, const char* path, uint8_t* to, int64_t size) {
  const int file = openat(root, path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  ssize_t done;
  do {
    done = read(file, to, static_cast<size_t>(size + 1));
  } while (done < 0 && errno == EINTR);
  close(file);
  return done == size;
}

Status status_of(const uint8_t* data, int64_t size) {
  const bool jpeg = size >= 4 && data[0] == 0xff && data[1] == 0xd8 && data[size - 2] == 0xff && data[size - 1] == 0xd9;
  return jpeg && !has_zeros(data, size) ? kSound : kComplete;
}

}  // namespace

void read_files(FileBatch* batch) {
  // The folder is found once, not once a file: to walk its path takes as long as half of the rest of opening.
  const int root = open(batch->root, kFolder | O_DIRECTORY | O_CLOEXEC);
  std::string path;
  for (;;) {
    const int32_t i = __atomic_fetch_add(&batch->next, 1, __ATOMIC_RELAXED);
    if (i >= batch->count) break;
    path.assign(batch->paths + i * batch->width, static_cast<size_t>(batch->width));  // zeros end it
    uint8_t* to = batch->memory + batch->starts[i];
    const bool whole = root >= 0 && read_whole(root, path.c_str(), to, batch->sizes[i]);
    batch->status[i] = whole ? status_of(to, batch->sizes[i]) : kOther;
  }
  if (root >= 0) close(root);
}
