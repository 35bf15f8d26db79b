"""Sets in COCO's JSON format, by whatever names: COCO (the largest object's box) and iNaturalist (no boxes)."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from precompute.base.errors import UserError
from precompute.datasets.extents import extent_of
from precompute.datasets.listing import Box, Listing, rank
from precompute.datasets.rows import SPELLINGS, Archive, Dataset, Row, four_numbers, listing_of, split_of

Objects = dict[str, dict[str, Any]]
_OTHER_TASKS = ("captions", "keypoints", "panoptic", "stuff", "image_info")  # words in names of files without boxes


def read(dataset: Dataset, root: Path) -> Listing:
    """A picture's box and label are those of its largest object (by its box; crowds do not count)."""
    files = [*sorted(root.glob("annotations/*.json")), *sorted(root.glob("*.json")), *sorted(root.glob("*/*.json"))]
    files = [file for file in dict.fromkeys(files) if not any(word in file.name for word in _OTHER_TASKS)]
    if not files:
        dataset.expect(root, "annotations/instances_train2017.json")
    return read_files(dataset, root, files, boxed=True, unboxed="pictures without an annotated object")


def read_inat(dataset: Dataset, root: Path) -> Listing:
    """iNaturalist of any year: no boxes. Of train.json and train_mini.json the one whose pictures are there counts."""
    files = [file for file in sorted(root.glob("*.json")) if split_of(file.stem) in ("train", "val")]
    if not files:
        dataset.expect(root, "train2018.json")
    return read_files(dataset, root, files, unlabelled="pictures without a class")


def read_files(dataset: Dataset, root: Path, files: Sequence[Path], *, named: bool = False, **more: Any) -> Listing:
    """The pictures of some JSON files, whose splits their names or folders say ("train" where they say none).

    The pictures are looked for below `root`. Files without any there are passed over, and so are files of another kind,
    unless they are `named` by the user or lie in annotations/. UserError where nothing is left.
    """
    categories: dict[str, str] = {}  # class: an id that it has
    rows: list[Row] = []
    used: set[str] = set()
    notes: Counter[str] = Counter()
    written: dict[str, set[str]] = defaultdict(set)  # paths that were looked for by their names alone, as in the files
    absent = []
    for file in files:
        content = _read_json(file, needed=named or file.parent.name == "annotations")
        if content is None:
            notes["JSON files passed over, as they are not in COCO's format"] += 1
            continue
        # A folder's name counts below the root only: anybody's pictures may lie in "test data".
        names = (file.stem, file.stem.partition("_")[2], file.parent.name if root in file.parent.parents else "")
        split = next(filter(None, map(split_of, names)), "train")
        folder = _folder_of(root, file, split, content)
        if folder is None:
            # Tools write where the pictures were on their own machine: then the names alone must do.
            moved = [image for image in content["images"] if isinstance(image, dict)]
            moved = [(image, name) for image in moved if isinstance(name := image.get("file_name"), str)]
            for image, name in moved:
                image["file_name"] = name.replace("\\", "/").rpartition("/")[2]
            folder = _folder_of(root, file, split, content)
            for image, name in moved:
                written[f"{folder}{image['file_name']}"].add(name.replace("\\", "/"))
            what = f"pictures of {file.name} that are looked for by their names alone, as its folders are not there"
            notes[what] = 0 if folder is None else len(content["images"])
        if folder is None:
            absent.append(f"{file} ({next(iter(_paths(content)), 'without pictures')})")
            continue
        rows += _rows(file, folder, split, content, categories)
        used.add(split)
    if not used:
        raise UserError(
            f"{root}: the pictures of {', '.join(absent) or 'no JSON file'} are not below it. Expected:{dataset.tree}\n"
            "Or name both: --annotations FILE --images DIR"
        )
    if absent:
        notes[f"annotation files whose pictures are not there ({', '.join(absent)})"] = len(absent)
    for i, row in enumerate(rows):
        if len(names := sorted(written.get(row.path, ()))) > 1:
            fault = f"{row.where}: several pictures of this name in other folders ({names[0]!r}, {names[1]!r})"
            rows[i] = row._replace(fault=row.fault or fault)
    in_order = sorted(categories, key=lambda name: (int(i) if (i := categories[name]).isdigit() else math.inf, i))
    splits = tuple(name for name in SPELLINGS if name in used)
    classes = {name: name for name in in_order}
    return listing_of(dataset, root, rows, splits=splits, classes=classes, notes=notes, **more)


def _read_json(file: Path, needed: bool) -> dict[str, Any] | None:
    """The content of a file in COCO's format; None for another one, UserError where it is `needed`."""
    try:
        content = json.loads(file.read_bytes())
        if not isinstance(content["images"], list) or not isinstance(content.get("annotations", []), list):
            raise TypeError("images and annotations must be lists")
        return content
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if not needed:
            return None
        raise UserError(f"{file}: not in COCO's JSON format ({type(error).__name__}: {error})") from error


def _paths(content: dict[str, Any]) -> list[str]:
    """Paths of the first pictures, with '/' between folders whatever the tool wrote."""
    names = [image.get("file_name") for image in content["images"][:8] if isinstance(image, dict)]
    return [name.replace("\\", "/").removeprefix("./") for name in names if isinstance(name, str)]


def _folder_of(root: Path, file: Path, split: str, content: dict[str, Any]) -> str | None:
    """The folder below `root` that a file's paths are relative to, with a slash at its end; None: nowhere.

    Of several folders the one that holds most of the first pictures; those of the file's split are looked at first,
    since pictures of two splits may have the same names.
    """
    paths = _paths(content)
    best, most = None, 0
    for folder in _folders(root, file, split):
        hits = sum(_is_there(folder, path) for path in paths)
        if hits > most:
            best, most = folder, hits
        if hits == len(paths):
            break
    if best is None:
        # None of the first pictures is there, but the folder that they name is.
        return "" if any("/" in path and (root / path.rpartition("/")[0]).is_dir() for path in paths) else None
    inside = best.relative_to(root).as_posix()
    return "" if inside == "." else inside + "/"


def _folders(root: Path, file: Path, split: str) -> Iterator[Path]:
    """Folders below `root` where a file's pictures may lie, the likeliest first, two levels deep."""
    yield from (folder for folder in (file.parent, root, root / "images") if root in (folder, *folder.parents))
    for depth in ("*/", "*/*/"):
        below = sorted(folder for folder in root.glob(depth) if folder.is_dir())
        yield from sorted(below, key=lambda folder: split_of(folder.name) != split)[:500]


def _is_there(folder: Path, path: str) -> bool:
    return "\0" not in path and not path.startswith("/") and ".." not in path.split("/") and (folder / path).is_file()


def _rows(file: Path, folder: str, split: str, content: dict[str, Any], categories: dict[str, str]) -> Iterator[Row]:
    """All pictures of one JSON file; adds to `categories`. Ids are compared as text: tools write them as either."""
    try:
        given = {str(c["id"]): str(c.get("name", c["id"])) for c in content.get("categories") or ()}
        # A class is its name, as ids may mean something else in the next file; of equal names the ids tell them apart.
        several = Counter(given.values())
        name_of = {key: name if several[name] == 1 else f"{name} ({key})" for key, name in given.items()}
        for key, name in name_of.items():
            categories.setdefault(name, key)
        largest: Objects = {}
        for note in content.get("annotations") or ():
            key = str(note["image_id"])
            best = largest.get(key)
            # Of equal areas the first counts. A box that makes no sense counts as the largest: its picture is left out.
            if not note.get("iscrowd") and (best is None or _rank(note) > _rank(best)):
                largest[key] = note
        if largest and not any(str(image["id"]) in largest for image in content["images"]):
            raise UserError(f"{file}: not one annotation belongs to a picture: an image_id is {next(iter(largest))!r}, "
                            f"an id of a picture {content['images'][0]['id']!r}")  # fmt: skip
        for image in content["images"]:
            yield _row(image, folder, split, largest.get(str(image["id"])), file.name, name_of)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not in COCO's JSON format ({type(error).__name__}: {error})") from error


def _row(
    image: dict[str, Any], folder: str, split: str, note: dict[str, Any] | None, file: str, name_of: dict[str, str]
) -> Row:
    path = folder + image["file_name"].replace("\\", "/").removeprefix("./")
    if note is None:
        return Row(path, None, split, where=file)
    where = f"{file} annotation {note.get('id', 'without id')}"
    label, fault = name_of.get(str(note.get("category_id"))), ""
    if label is None and name_of and note.get("category_id") is not None:
        fault = f"{where}: category {note['category_id']!r} is not among the categories"
    box: Box | str | None = None
    if (written := _bbox(note)) is not None:
        if (numbers := four_numbers(written)) is None:
            box = f"{where}: the bbox {written!r} is not four numbers (x y width height)"
        else:
            x, y, width, height = numbers
            size = image.get("width"), image.get("height")
            known = all(isinstance(side, int) and side > 0 for side in size)
            box = Box((x, y, x + width, y + height), where, size if known else None)  # type: ignore[arg-type]
    return Row(path, label, split, box, fault=fault, where=file)


def _bbox(note: dict[str, Any]) -> Any:
    """x, y, width, height as they are written, or of the object's mask; None where there is neither."""
    box = note.get("bbox")
    if box or (box is not None and not note.get("segmentation")):
        return box
    found = extent_of(note.get("segmentation"))
    if found is None or isinstance(found, str):
        return found
    (x0, y0, x1, y1), _ = found
    return [x0, y0, x1 - x0, y1 - y0]


def _rank(note: dict[str, Any]) -> tuple[bool, float]:
    """`rank`; infinite where the box makes no sense."""
    box = four_numbers(_bbox(note) or (0, 0, 0, 0))
    return (True, math.inf) if box is None else rank(*box[2:])


_TREE = """
  annotations/instances_train2017.json   annotations/instances_val2017.json
  train2017/*.jpg                        val2017/*.jpg
or other names: JSON files in annotations/, here or beside the pictures of each split"""
_INAT_TREE = """
  train2018.json   val2018.json
  train_val2018/Aves/2761/*.jpg ..."""
_COCO = "http://images.cocodataset.org"
_COCO_ARCHIVES = (
    Archive(f"{_COCO}/zips/train2017.zip", "cced6f7f71b7629ddf16f17bbcfab6b2", "."),
    Archive(f"{_COCO}/zips/val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80", "."),
    Archive(f"{_COCO}/annotations/annotations_trainval2017.zip", "f4bbac642086de4f52a3fdda2de5fa2c", "."),
)
_INAT = "https://ml-inat-competition-datasets.s3.amazonaws.com/2018"
_INAT_ARCHIVES = (
    Archive(f"{_INAT}/train_val2018.tar.gz", "b1c6952ce38f31868cc50ea72d066cc3", "."),
    Archive(f"{_INAT}/train2018.json.tar.gz", "bfa29d89d629cbf04d826a720c0a68b0", "."),
    Archive(f"{_INAT}/val2018.json.tar.gz", "f2ed8bfe3e9901cdefceb4e53cd3775d", "."),
)
_INAT_PAGE = "All years: https://github.com/visipedia/inat_comp."
DATASETS = (
    Dataset("coco", "COCO 2017", read, _TREE, "data/coco", archives=_COCO_ARCHIVES),
    Dataset("inat2018", "iNaturalist 2018", read_inat, _INAT_TREE, "data/inat2018", archives=_INAT_ARCHIVES),
    Dataset("inat", "iNaturalist of any year", read_inat, _INAT_TREE.replace("2018", "YEAR"), get=_INAT_PAGE),
)
