"""The contents of a box file, and whether the pictures are still those it was made from.

    python -m precompute.inspect cache/cub.h5 --root data/CUB_200_2011 --sheet cub.png
    python -m precompute.inspect cache/cub.h5 --quarantine

Exit status 1 where a picture is missing or has changed, or with --strict where something deserves attention.
"""

import json
from dataclasses import dataclass

from precompute.base.errors import UserError
from precompute.base.options import Parser, add_options, option, read_options
from precompute.base.program import check_out, main


@dataclass(frozen=True)
class Config:
    """The command's settings and their only defaults."""

    root: str | None = option(None, "folder or archive of the pictures (default: the one the file was made with)")
    sheet: str | None = option(None, "write a contact sheet of boxes to this .png")
    images: int = option(24, "pictures on the sheet, spread over the set", least=1)
    split: str | None = option(None, "only this split on the sheet")
    check: str = option(
        "hash", "compare the pictures with the file: hash reads them all", choices=("hash", "size", "none")
    )
    weights: str | None = option(None, "weights of the detector, to show its maps on the sheet too")
    quarantine: bool = option(False, "list every picture that was left out, and why")
    strict: bool = option(False, "end with status 1 where something about the set deserves attention")
    json: bool = option(False, "print everything as one JSON document at the end")


def program(argv: list[str] | None = None) -> int:
    parser = Parser("precompute.inspect", __doc__)
    parser.add_argument("file", help="box file made by python -m precompute.boxes")
    add_options(parser, Config)
    parsed = parser.parse_args(argv)
    config = read_options(Config, parsed)
    if config.sheet is not None:
        from precompute.base.sheet import check_format

        check_format(config.sheet, "--sheet")
    check_out(config.sheet, "--sheet")

    from precompute import inspection
    from precompute.base.boxfile import BoxCache
    from precompute.base.markup import one_line

    cache = BoxCache.open(parsed.file)
    if not len(cache):
        raise UserError(f"{parsed.file}: holds no pictures; make it again with: python -m precompute.boxes --rebuild")
    cache.indices(config.split)  # an unknown split shows before all pictures are read
    facts = inspection.summary(cache)
    inspection.print_summary(parsed.file, cache, facts)
    if config.quarantine:
        lines = [f"  {one_line(bad.path)}: {one_line(bad.reason)}" for bad in cache.quarantine]
        print("\n".join(lines) or "  nothing was left out")
    root = inspection.find_root(cache, config.root, config.check, needed=config.sheet is not None)
    problems: list[str] = []
    if root is not None:
        problems = inspection.verify(cache, root, config.check)
        facts["foreground"] = inspection.print_foreground(cache, root)
        facts["verified"] = {"root": str(root), "check": config.check, "problems": problems}
        if config.sheet:
            inspection.write_sheet(cache, root, config.sheet, config.images, config.split, config.weights)
            facts["sheet"] = config.sheet
    if config.json:
        print(json.dumps(facts))
    return 1 if problems or (config.strict and facts["remarks"]) else 0


if __name__ == "__main__":
    main(program)
