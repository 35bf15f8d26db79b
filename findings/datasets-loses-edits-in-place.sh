#!/usr/bin/env bash
# What: whether a picture that was pasted into or made smaller in place is stored by Hugging Face datasets.
# Versions: datasets 5.2.0, pillow 13.0.0, numpy 2.4.6. Date: 2026-11-30.
# A good guess: what a function of map(), or a generator, gives back is what is stored: map() runs it on each row and
# writes the pixels of the picture it returns.
# Seen: a PIL picture that still knows its file is stored as that file's path, without its pixels. Image.paste,
# thumbnail and ImageDraw work in place and leave the path there. Of 40 JPEGs in a folder, a patch pasted by
# map() is in 0 afterwards, a thumbnail of 32 pixels is 96 wide again, a Parquet file of the result holds the old
# pictures. Dataset.from_generator: 0 too. With .copy() first, with set_transform, in an IterableDataset, or where the
# pictures came as bytes (as those of a Parquet set do) all 40 are patched, so a test on these shows nothing. Nothing
# is said. The JPEG columns of mosaicml-streaming 0.10.0 (MDSWriter) and litdata 0.2.76 do the same (seen; not below).
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check datasets==5.2.0 pillow==13.0.0 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import io
import sys
from pathlib import Path

import datasets
import numpy as np
import PIL
from PIL import Image

datasets.disable_progress_bars()
work = Path(sys.argv[1])
folder = work / "pictures"
for i in range(40):
    (folder / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((64, 96, 3), 200, np.uint8)).save(folder / "ab"[i % 2] / f"{i}.jpg")
local = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=str(work / "cache"))
files = sorted(str(path) for path in folder.rglob("*.jpg"))
kinds = datasets.Features({"image": datasets.Image()})
as_bytes = datasets.Dataset.from_list([{"image": {"bytes": Path(f).read_bytes(), "path": None}} for f in files], kinds)


def paste(row):
    row["image"].paste((0, 0, 0), (20, 20, 60, 50))
    return row


def paste_in_a_copy(row):
    return paste({**row, "image": row["image"].copy()})


def smaller(row):
    row["image"].thumbnail((32, 32))
    return row


def made():
    for f in files:
        yield paste({"image": Image.open(f)})


def patched(rows):
    return sum(int(np.asarray(row["image"])[35, 40].max()) < 50 for row in rows)


def transformed(rows):
    return {"image": [paste({"image": picture})["image"] for picture in rows["image"]]}


mapped = local.map(paste)
mapped.to_parquet(work / "mapped.parquet")
back = datasets.Dataset.from_parquet(str(work / "mapped.parquet"), cache_dir=str(work / "cache"))
lost = {
    "map() of a folder": patched(mapped),
    "the same, written to Parquet and read": patched(back),
    "Dataset.from_generator": patched(datasets.Dataset.from_generator(made, cache_dir=str(work / "cache"))),
}
kept = {
    "map() with a copy": patched(local.map(paste_in_a_copy)),
    "set_transform": patched(local.with_transform(transformed)),
    "map() of an IterableDataset": patched(local.to_iterable_dataset().map(paste)),
    "map() of pictures stored as bytes": patched(as_bytes.map(paste)),
}
print("datasets", datasets.__version__, "pillow", PIL.__version__, "- patched pictures of 40:")
for name, count in {**lost, **kept}.items():
    print(f"  {name}: {count}")
widths = {row["image"].width for row in local.map(smaller)}
print("  widths after a thumbnail of 32 by map():", sorted(widths))
stored = mapped.cast_column("image", datasets.Image(decode=False))[0]["image"]
print("  stored by map():", {"path": Path(stored["path"]).name, "bytes": stored["bytes"]})
first = paste({"image": Image.open(files[0])})["image"]
memory = io.BytesIO()
first.save(memory, "PNG")
assert np.asarray(Image.open(memory))[35, 40].max() < 50  # the paste itself has worked
assert set(lost.values()) == {0} and widths == {96} and stored["bytes"] is None, "the behaviour has changed"
assert set(kept.values()) == {40}, "the behaviour has changed"
PY
HF_HOME="$work/hf" HF_HUB_OFFLINE=1 "$work/venv/bin/python" "$work/try.py" "$work"
