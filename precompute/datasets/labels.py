"""Labels of pictures from a CSV file (or one with tabs or semicolons), whose columns are known by their names."""

import csv
from pathlib import Path

from precompute.base.errors import UserError
from precompute.datasets.rows import split_of

_PATHS = (
    "path", "filepath", "file_path", "filename", "file_name", "file", "image_path", "image", "image_id", "img", "id",
)  # fmt: skip
_LABELS = (
    "label", "class", "class_name", "category", "species", "target", "breed", "variety", "class_id", "category_id",
)  # fmt: skip
_SPLITS = ("split", "set", "subset", "fold", "partition", "data_set")


def read_labels(file: Path) -> dict[str, tuple[str | None, str]]:
    """Label (None where the field is empty) and split ("train" where none is given) by path, '/' between folders.

    UserError where the file has no column of paths or labels, or names a picture twice with different labels.
    """
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            first = lines.readline()
            lines.seek(0)
            delimiter = max(",;\t", key=first.count)
            reader = csv.DictReader(lines, delimiter=delimiter)
            columns = {(name or "").strip().lower(): name for name in reader.fieldnames or ()}
            path_of, label_of = (next((columns[n] for n in names if n in columns), None) for names in (_PATHS, _LABELS))
            if path_of is None or label_of is None:
                raise UserError(
                    f"--labels {file}: the columns are {', '.join(columns) or 'none'}; needed are one of paths "
                    f"({', '.join(_PATHS[:4])}, ...) and one of labels ({', '.join(_LABELS[:4])}, ...)"
                )
            split_column = next((columns[n] for n in _SPLITS if n in columns), None)
            found: dict[str, tuple[str | None, str]] = {}
            for row in reader:
                path = (row[path_of] or "").strip().replace("\\", "/").removeprefix("./")
                if not path:
                    continue
                said = (row[split_column] or "").strip() if split_column else ""
                split = split_of(said) if said else "train"
                if split is None:
                    raise UserError(
                        f"--labels {file} line {reader.line_num}: {said!r} is no split; train, val or test are"
                    )
                value = ((row[label_of] or "").strip() or None, split)
                if found.setdefault(path, value) != value:
                    raise UserError(
                        f"--labels {file} line {reader.line_num}: {path} has two labels, "
                        f"{found[path][0]} and {value[0]}"
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--labels {file}: cannot be read as a CSV file ({error})") from error
    return found
