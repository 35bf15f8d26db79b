"""Readers of image sets, from their real on-disk layouts. `DATASETS` names every set of the files in this package."""

import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from precompute.base.errors import UserError
from precompute.datasets.listing import Listing
from precompute.datasets.rows import Dataset


def _sets() -> Iterator[Dataset]:
    """The sets that the files of this package describe: `DATASET`, or several of them, `DATASETS`."""
    for info in pkgutil.iter_modules(__path__):
        module = vars(importlib.import_module(f"{__name__}.{info.name}"))
        yield from module.get("DATASETS", ())
        yield from (module[name] for name in ("DATASET",) if name in module)


DATASETS = {entry.name: entry for entry in _sets()}


def usual_root(name: str, root: Path | str | None) -> Path:
    """The folder of a set. Raises UserError for an unknown set, or where none was named and there is no usual one."""
    if name not in DATASETS:
        raise UserError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    usual = DATASETS[name].usual_root
    if root is None and usual is None:
        raise UserError(f"--dataset {name} has no usual place: say where it is with --root DIR")
    return Path(root or usual or "")


def read_dataset(
    name: str, root: Path | str | None = None, annotations: Sequence[str] = (), labels: str | None = None
) -> Listing:
    """Lists a set. Raises UserError for an unknown name, a missing folder or one of another layout.

    `annotations`: JSON files in COCO's format, whose pictures are below `root`, in place of the set's own layout.
    `labels`: a CSV file with the labels of the pictures below `root`.
    """
    if labels is not None:
        from precompute.datasets.folder import read_labelled

        return read_labelled(usual_root("folder", root), Path(labels))
    if annotations:
        from precompute.datasets.coco import read_files

        if root is None:
            raise UserError("--annotations FILE needs --images DIR, the folder of the pictures")
        if missing := [file for file in annotations if not Path(file).is_file()]:
            raise UserError(f"--annotations {missing[0]}: no such file")
        return read_files(DATASETS["coco"], Path(root), [Path(file) for file in annotations], named=True, boxed=True,
                          unboxed="pictures without an annotated object")  # fmt: skip
    root = usual_root(name, root)
    return DATASETS[name].read(DATASETS[name], root)


def download(name: str, root: Path | str | None = None) -> Path:
    """Fetches a set's official archives, compares their checksums and unpacks them; returns the set's folder.

    Raises UserError where there is no public archive, with what to get and from where, or where fetching fails.
    """
    root = usual_root(name, root)
    entry = DATASETS[name]
    if not entry.archives:
        raise UserError(
            f"--download: there is no public archive of {name} ({entry.title}). {entry.get}\n"
            f"Unpack it and name its folder with --root; the tree that is expected:{entry.tree}"
        )
    inside = Path(entry.usual_root or "").name
    if any(archive.into == ".." for archive in entry.archives) and root.name != inside:
        raise UserError(f"--root {root}: the archive unpacks to {inside}; take --root {root.parent / inside}")
    from torchvision.datasets.utils import download_and_extract_archive

    for archive in entry.archives:
        into = (root / archive.into).resolve()
        print(f"fetching {archive.url} into {into}", flush=True)
        try:
            download_and_extract_archive(archive.url, str(into), md5=archive.md5)
        except (OSError, RuntimeError) as error:
            raise UserError(f"--download: {archive.url}: {error}") from error
    return root
