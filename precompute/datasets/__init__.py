"""Readers of image sets, from their real on-disk layouts. `DATASETS` is the registry."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from precompute.base.errors import UserError

if TYPE_CHECKING:
    from precompute.datasets.base import Listing


@dataclass(frozen=True)
class Archive:
    """An official public archive: where, its MD5, and the folder it is unpacked into (relative to the set's root)."""

    url: str
    md5: str
    into: str


@dataclass(frozen=True)
class Dataset:
    """Where a set's reader is, where the set usually lies, and how it can be had."""

    reader: str  # module.function; called with root, name, and the sentence on how to get it
    usual_root: str | None  # None: no usual place, --root must be given
    about: str
    get: str = ""
    archives: Sequence[Archive] = ()
    masks: bool = False  # whether it comes with foreground masks


_VGG = "https://www.robots.ox.ac.uk/~vgg/data"
_INAT = "https://ml-inat-competition-datasets.s3.amazonaws.com/2018"
_COCO = "http://images.cocodataset.org"

DATASETS = {
    "cub": Dataset(
        "cub_like.read_cub",
        "data/CUB_200_2011",
        "CUB-200-2011",
        archives=(
            Archive(
                "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
                "97eceeb196236b17998738112f37df78",
                "..",
            ),
        ),
    ),
    "cars": Dataset(
        "cars.read",
        "data/stanford_cars",
        "Stanford Cars",
        get="Its official site is gone. Get cars_train, cars_test and car_devkit from a copy you trust.",
    ),
    "aircraft": Dataset(
        "aircraft.read",
        "data/fgvc-aircraft-2013b",
        "FGVC-Aircraft 2013b",
        archives=(
            Archive(
                f"{_VGG}/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
                "d4acdd33327262359767eeaa97a4f732",
                "..",
            ),
        ),
    ),
    "nabirds": Dataset(
        "cub_like.read_nabirds",
        "data/nabirds",
        "NABirds",
        get="Its licence must be agreed to by hand: https://dl.allaboutbirds.org/nabirds, then unpack nabirds.tar.gz.",
    ),
    "inat2018": Dataset(
        "jsons.read_inat2018",
        "data/inat2018",
        "iNaturalist 2018, no boxes",
        archives=(
            Archive(f"{_INAT}/train_val2018.tar.gz", "b1c6952ce38f31868cc50ea72d066cc3", "."),
            Archive(f"{_INAT}/train2018.json.tar.gz", "bfa29d89d629cbf04d826a720c0a68b0", "."),
            Archive(f"{_INAT}/val2018.json.tar.gz", "f2ed8bfe3e9901cdefceb4e53cd3775d", "."),
        ),
    ),
    "coco": Dataset(
        "jsons.read_coco",
        "data/coco",
        "COCO 2017, the largest object's box",
        archives=(
            Archive(f"{_COCO}/zips/train2017.zip", "cced6f7f71b7629ddf16f17bbcfab6b2", "."),
            Archive(f"{_COCO}/zips/val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80", "."),
            Archive(f"{_COCO}/annotations/annotations_trainval2017.zip", "f4bbac642086de4f52a3fdda2de5fa2c", "."),
        ),
    ),
    "imagenet": Dataset(
        "imagenet.read",
        "data/imagenet",
        "ImageNet (ILSVRC 2012), boxes where their XML files are there",
        get="It is given to registered users only: https://image-net.org/download-images.php.",
    ),
    "pets": Dataset(
        "masks.read_pets",
        "data/oxford-iiit-pet",
        "Oxford-IIIT Pet, boxes from the trimaps",
        masks=True,
        archives=(
            Archive(f"{_VGG}/pets/data/images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c", "."),
            Archive(f"{_VGG}/pets/data/annotations.tar.gz", "95a8c909bbe2e81eed6a22bccdf3f68f", "."),
        ),
    ),
    "ecssd": Dataset(
        "masks.read_ecssd",
        "data/ECSSD",
        "ECSSD, a saliency benchmark with masks",
        masks=True,
        get="images.zip and ground_truth_mask.zip from https://www.cse.cuhk.edu.hk/leojia/projects/hsaliency.",
    ),
    "demo": Dataset("cub_like.read_cub", "data/demo", "the embedded set, generated when it is missing"),
    "folder": Dataset("folder.read", None, "any tree of class folders, or a flat one"),
}


def usual_root(name: str, root: Path | str | None) -> Path:
    """The folder of a set. Raises UserError for an unknown set, or where none was named and there is no usual one."""
    if name not in DATASETS:
        raise UserError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    usual = DATASETS[name].usual_root
    if root is None and usual is None:
        raise UserError(f"--dataset {name} has no usual place: say where it is with --root DIR")
    return Path(root or usual or "")


def read_dataset(name: str, root: Path | str | None = None) -> "Listing":
    """Lists a set. Raises UserError for an unknown name, a missing folder or one of another layout."""
    root = usual_root(name, root)
    entry = DATASETS[name]
    if name == "demo" and not root.exists():
        from precompute.demo import make_demo

        make_demo(root)
    module, function = entry.reader.split(".")
    reader = getattr(importlib.import_module(f"precompute.datasets.{module}"), function)
    return reader(root, name, how_to_get(name))


def how_to_get(name: str) -> str:
    """One sentence: where the set is to be had."""
    entry = DATASETS[name]
    if entry.archives:
        urls = ", ".join(archive.url for archive in entry.archives)
        return f"python -m precompute.boxes --dataset {name} --download fetches it ({urls})."
    return entry.get


def expected_tree(name: str) -> str:
    """The layout of a set's folder, as its reader expects it."""
    module, function = DATASETS[name].reader.split(".")
    return importlib.import_module(f"precompute.datasets.{module}").TREES[function].rstrip()


def download(name: str, root: Path | str | None = None) -> Path:
    """Fetches a set's official archives, compares their checksums and unpacks them; returns the set's folder.

    Raises UserError where there is no public archive, with what to get and from where, or where fetching fails.
    """
    root = usual_root(name, root)
    entry = DATASETS[name]
    if not entry.archives:
        raise UserError(
            f"--download: there is no public archive of {name} ({entry.about}). {entry.get}\n"
            f"Unpack it and name its folder with --root; the tree that is expected:{expected_tree(name)}"
        )
    if any(archive.into == ".." for archive in entry.archives) and root.name != Path(entry.usual_root or "").name:
        name_inside = Path(entry.usual_root or "").name
        raise UserError(f"--root {root}: the archive unpacks to {name_inside}; take --root {root.parent / name_inside}")
    from torchvision.datasets.utils import download_and_extract_archive

    for archive in entry.archives:
        into = (root / archive.into).resolve()
        print(f"fetching {archive.url} into {into}", flush=True)
        try:
            download_and_extract_archive(archive.url, str(into), md5=archive.md5)
        except (OSError, RuntimeError) as error:
            raise UserError(f"--download: {archive.url}: {error}") from error
    return root
