"""Small sets in folders, and what a listing says of them."""

from pathlib import Path

from PIL import Image


def pictures(root: Path, *paths: str, size: tuple[int, int] = (60, 40)) -> None:
    for i, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (i * 7 % 256, 90, 200)).save(root / path)


def seen(listing) -> dict[str, tuple[str, str | None]]:
    """Split and class of each picture."""
    names = (*listing.class_names, None)
    splits = [listing.split_names[k] for k in listing.splits]
    return {p: (s, names[k]) for p, s, k in zip(listing.paths, splits, listing.labels, strict=True)}
