"""Texts from files and folders (names, paths, versions) as parts of one line, of Markdown, or of JSON in Markdown."""

import json
import re
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

_SPECIAL = re.compile(r"[\\`*_\[\]|~$]")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}


def one_line(text: Any, most: int = 200) -> str:
    """The text without line breaks and control characters (written as \\n, \\x1b), cut after `most` characters."""
    text = str(text)
    cut = text if len(text) <= most else text[:most] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def markdown(text: Any) -> str:
    """The text as a reader of Markdown or HTML shall see it: no markup, link, image or tag begins in it."""
    line = one_line(text, 10_000)
    line = re.sub("[&<>@]", lambda found: _ENTITIES[found[0]], line)
    line = _SPECIAL.sub(lambda found: "\\" + found[0], line)
    return re.sub(r"(?i)\b(https?|ftp|mailto|xmpp):|\bwww\.", lambda f: f[0][:-1] + f"&#{ord(f[0][-1])};", line)


def code(text: Any) -> str:
    """The text in a code span; where it could end that, or a table's cell, as `markdown` writes it."""
    return f"`{text}`" if re.fullmatch(r"[\w .,:;/+=()'#%@-]+", str(text), re.ASCII) else markdown(text)


def json_code(value: Any) -> str:
    """JSON in a code span; what could end that, or be a tag, is written as \\u00xx, which JSON reads as the same."""
    return "`" + re.sub("[<>&`]", lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value)) + "`"


def without_folders(value: Any, key: str = "") -> Any:
    """A JSON value in which absolute paths, and all that is called root or folder, have only their last part."""
    if isinstance(value, dict):
        return {name: without_folders(inner, name) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(inner) for inner in value]
    if isinstance(value, str):
        for path in (PurePosixPath(value), PureWindowsPath(value)):
            if path.is_absolute() or value.startswith("~") or key in ("root", "folder"):
                return path.name
    return value
