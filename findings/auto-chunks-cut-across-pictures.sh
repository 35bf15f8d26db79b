#!/usr/bin/env bash
# What: what one picture costs to read from a compressed array whose chunks were not told, in HDF5 and in Zarr.
# Versions: h5py 3.16.0 (HDF5 2.0.0), zarr 3.1.6, numpy 2.4.6. Date: 2026-11-30.
# A good guess: chunks hold whole pictures, some dozens of each, so that a picture costs one chunk, some 100 KB.
# Seen: both halve the sides in turn, those of the picture and its channels as well. With compression="gzip" (or
# maxshape) and no more, h5py cuts 50,000 pictures of 32x32 into chunks of 6250x4x4x1: one picture of 3 KB lies in 192
# of them, 19 MB to unpack, 6,250 times as much. That is more than the cache holds, so reading in order is no better:
# some 50 ms a picture, against 0.04 ms from chunks of one picture. Zarr's own chunks are 12500x8x8x2: 51 MB, some 30 ms
# against 1-4 ms. Of 5,000 pictures of 224x224 one costs 47 MB in h5py. Boxes (50000, 4) come as four columns. Its text
# says just that a shape is guessed. Give chunks=(n, height, width, 3).
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check h5py==3.16.0 zarr==3.1.6 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import math
import sys
import time

import h5py
import numpy as np
import zarr

count, few = 50000, 500  # few: in chunks of one picture, to compare
rng = np.random.default_rng(0)
pictures = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
which = rng.integers(0, few, 10).tolist()


def cost(shape, chunks):
    """Chunks that hold a part of one picture, their bytes, and how often the picture's own bytes go into these."""
    number = math.prod(-(-side // chunk) for side, chunk in zip(shape[1:], chunks[1:]))
    size = number * math.prod(chunks)
    return number, size / 1e6, size // math.prod(shape[1:])


def seconds(array, indices):
    start = time.perf_counter()
    for i in indices:
        assert (array[i] == pictures[i]).all()
    return (time.perf_counter() - start) / len(indices)


def compare(name, guessed, told):
    number, size, times = cost(guessed.shape, guessed.chunks)
    slow, order, fast = (seconds(*case) for case in ((guessed, which), (guessed, range(10)), (told, which)))
    print(f"  {name}: chunks {tuple(guessed.chunks)}, so a picture of 3072 bytes lies in {number} chunks of together "
          f"{size:.1f} MB ({times} times as much)")
    print(f"    {1e3 * slow:.1f} ms a picture at random, {1e3 * order:.1f} ms in order; from chunks of one picture "
          f"{1e3 * fast:.2f} ms")
    assert number >= 16 and times > 2000, "the behaviour has changed"
    assert slow > 3 * fast, "the behaviour has changed"


work, own = sys.argv[1], (1,) + pictures.shape[1:]
print("h5py", h5py.__version__, "HDF5", h5py.version.hdf5_version, "zarr", zarr.__version__, "-", pictures.shape)
with h5py.File(work + "/pictures.h5", "w") as file:
    file.create_dataset("guessed", data=pictures, compression="gzip")
    file.create_dataset("told", data=pictures[:few], compression="gzip", chunks=own)
    large = file.create_dataset("large", (5000, 224, 224, 3), "uint8", compression="gzip")
    growing = file.create_dataset("growing", (5000, 224, 224, 3), "uint8", maxshape=(None, 224, 224, 3))
    boxes = file.create_dataset("boxes", (count, 4), "float32", compression="gzip")
    number, size, times = cost(large.shape, large.chunks)
    print(f"  h5py, {large.shape}: chunks {large.chunks}, {number} a picture, {size:.1f} MB ({times} times as much); "
          f"the same with maxshape alone: {growing.chunks == large.chunks}")
    print(f"  h5py, boxes {boxes.shape}: chunks {boxes.chunks}")
    assert number > 100 and growing.chunks == large.chunks and boxes.chunks[1] == 1, "the behaviour has changed"
with h5py.File(work + "/pictures.h5") as file:
    compare('h5py, compression="gzip"', file["guessed"], file["told"])
guessed = zarr.create_array(work + "/guessed.zarr", data=pictures)
compare("zarr, as it comes", guessed, zarr.create_array(work + "/told.zarr", data=pictures[:few], chunks=own))
PY
"$work/venv/bin/python" "$work/try.py" "$work"
