"""Labels of pictures from a CSV file (or one with tabs or semicolons), whose columns are known by their names."""

import csv
from pathlib import Path

from precompute.base.errors import UserError
from precompute.datasets.rows import is_picture, split_of

_PATHS = (
    "path", "filepath", "file_path", "filename", "file_name", "file", "image_path", "image", "image_id", "img", "id",
)  # fmt: skip
_LABELS = (
    "label", "class", "class_name", "category", "species", "target", "breed", "variety", "class_id", "category_id",
)  # fmt: skip
_SPLITS = ("split", "set", "subset", "fold", "partition", "data_set")


def read_labels(file: Path) -> dict[str, tuple[str | None, str]]:
    """Label (None where the field is empty) and split ("train" where none is given) by path, '/' between folders.

    A first line that names a picture is no head: the columns are then path, label and perhaps split. UserError where
    the file has no column of paths or labels, or names a picture twice with different labels.
    """
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            first = lines.readline()
            lines.seek(0)
            table = csv.reader(lines, delimiter=max(",;\t", key=first.count))
            head = next(table, [])
            path_of, label_of, split_of_row = _columns(head, file)
            if has_head := not is_picture(head[path_of].strip()):
                head = next(table, None)
            found: dict[str, tuple[str | None, str]] = {}
            for row in [head, *table] if head else ():
                cells = [cell.strip() for cell in row] + [""] * 3
                path = cells[path_of].replace("\\", "/").removeprefix("./")
                if not path:
                    continue
                said = cells[split_of_row] if split_of_row is not None else ""
                value = cells[label_of] or None, split_of(said) or said or "train"
                if found.setdefault(path, value) != value:
                    what = "labels" if found[path][0] != value[0] else "splits"
                    raise UserError(
                        f"--labels {file}{f' line {table.line_num}' if has_head else ''}: {path} has two {what}, "
                        f"{' and '.join(str(v[what == 'splits']) for v in (found[path], value))}"
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--labels {file}: cannot be read as a CSV file ({error})") from error
    return found


def _columns(head: list[str], file: Path) -> tuple[int, int, int | None]:
    """The places of path, label and split (None: there is none)."""
    if len(head) in (2, 3) and is_picture(head[0].strip()):
        return 0, 1, 2 if len(head) == 3 else None
    names = [name.strip().lower().replace(" ", "_") for name in head]
    path, label, split = (
        next((names.index(n) for n in known if n in names), None) for known in (_PATHS, _LABELS, _SPLITS)
    )
    if path is None or label is None:
        raise UserError(
            f"--labels {file}: {'the columns are ' + ', '.join(names) if names else 'it is empty'}; needed are "
            f"one of paths ({', '.join(_PATHS[:4])}, ...) and one of labels ({', '.join(_LABELS[:4])}, ...)"
        )
    return path, label, split
