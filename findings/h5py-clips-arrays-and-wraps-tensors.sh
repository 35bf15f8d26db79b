#!/usr/bin/env bash
# What: which numbers h5py stores for pictures and boxes that do not fit the type of the dataset, given as a NumPy
# array, as a torch tensor of the same values, and as a list.
# Versions: h5py 3.16.0 (HDF5 2.0.0), torch 2.11.0 (CPU), numpy 2.4.6. Date: 2026-11-30.
# A good guess: what is given is turned into an array first, so the three store the same; a float picture in a uint8
# dataset is clipped, or wraps round, in all of them.
# Seen: an array is converted by HDF5, which clips. All else (a tensor, a list of arrays) is converted by NumPy to the
# type of the dataset first, and that wraps round. Bicubic resizing overshoots at edges: from an array -3.0 and 265.7
# are stored as 0 and 255, from the tensor as 253 and 9, so white rims turn black and black ones white. Of pictures of
# black and white blocks, made four times larger, 32 % of the values are more than 200 levels off. A box of int64 with a
# corner at -3 (a box that leaves the picture) is 0 in a uint16 dataset from an array, 65533 from a tensor.
# So .numpy(), torch.stack or a list decides; values within the range show nothing. create_dataset(data=..., dtype=...)
# does the same, and reading: .astype("uint16")[:] clips and [:].astype("uint16") wraps. Nothing warns, and no page of
# h5py was found that says so; its pull request 1574 says that arrays are left to HDF5, not what comes of it. Clamp and
# round first.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check h5py==3.16.0 torch==2.11.0 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import sys
import warnings

import h5py
import numpy as np
import torch

torch.set_num_threads(1)
draw = torch.Generator().manual_seed(0)
same = "the behaviour has changed"


def stored(file, name, value, kind):
    """What a dataset of that type holds after value was assigned to it."""
    data = file.create_dataset(name, (len(value), *value[0].shape), kind)
    data[:] = value
    return data[:]


print("h5py", h5py.__version__, "HDF5", h5py.version.hdf5_version, "torch", torch.__version__)
with warnings.catch_warnings(record=True) as said, h5py.File(sys.argv[1], "w") as file:
    warnings.simplefilter("always")
    # 20 pictures of black and white blocks, made four times larger.
    small = 255.0 * (torch.rand(20, 3, 16, 16, generator=draw) > 0.5)
    large = torch.nn.functional.interpolate(small, scale_factor=4, mode="bicubic")
    print(f"  pictures from {large.min():.1f} to {large.max():.1f}")
    array = stored(file, "array", large.numpy(), "uint8")
    tensor = stored(file, "tensor", large, "uint8")
    rows = stored(file, "list", [picture.numpy() for picture in large], "uint8")
    created = file.create_dataset("created", data=large, dtype="uint8")[:]
    off = np.abs(array.astype(int) - tensor)
    print(f"  tensor against array: {np.mean(off > 200):.3f} of the values differ by more than 200 levels, "
          f"{np.mean((off > 0) & (off <= 200)):.3f} by less; the mean is {array.mean():.1f} and {tensor.mean():.1f}")
    print("  as the tensor: a list", np.array_equal(rows, tensor), "create_dataset", np.array_equal(created, tensor))
    clipped = np.array_equal(array, large.clamp(0, 255).numpy().astype("uint8"))
    fits = large.clamp(0, 255)
    inside = np.array_equal(stored(file, "a", fits.numpy(), "uint8"), stored(file, "t", fits, "uint8"))
    print("  the array is clipped:", clipped, " clamped first, both are equal:", inside)

    boxes = torch.tensor([[-3, 10, 200, 150]])
    by_array = stored(file, "boxes", boxes.numpy(), "uint16")[0].tolist()
    by_tensor = stored(file, "others", boxes, "uint16")[0].tolist()
    signed = file.create_dataset("signed", data=boxes.numpy())
    read = signed.astype("uint16")[0].tolist(), signed[0].astype("uint16").tolist()
    print("  box", boxes[0].tolist(), "array:", by_array, "tensor:", by_tensor, "read in two ways:", *read)

assert not said, same
assert clipped and inside and np.array_equal(rows, tensor) and np.array_equal(created, tensor), same
assert np.mean(off > 200) > 0.1 and not np.any((off > 0) & (off <= 100)), same
assert by_array == read[0] == [0, 10, 200, 150] and by_tensor == read[1] == [65533, 10, 200, 150], same
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" "$work/try.py" "$work/pictures.h5"
