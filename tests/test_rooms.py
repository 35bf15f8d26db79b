"""The laws of the tree: which room may import which, no circle, no long file."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("precompute", "augment", "trainer", "benchmarks")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
CPLUSPLUS = [path for suffix in ("cpp", "hpp") for path in sorted((ROOT / "augment").rglob(f"*.{suffix}"))]
LONGEST = 350  # lines of a source file


def module_of(path: Path) -> str:
    """`augment/views/plan.py` as `augment.views.plan`, a package's `__init__.py` as the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in SOURCES}


def imports_of(path: Path) -> set[str]:
    """Every module of this project that a file imports, anywhere in it, but for annotations (TYPE_CHECKING)."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {
                f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in MODULES else node.module for a in node.names
            }
    return {name for name in names if name.split(".")[0] in PACKAGES}


IMPORTS = {module: imports_of(path) for module, path in MODULES.items()}


def test_packages_import_one_way():
    """Of precompute, augment and trainer use the foundation only; trainer makes missing boxes by one function."""
    base = "precompute.base"
    allowed = {
        "precompute": ("precompute",),
        "augment": ("augment", base),
        "trainer": ("trainer", "augment", base, "precompute.boxes"),
        "benchmarks": PACKAGES,
    }
    for module, imports in IMPORTS.items():
        for name in imports:
            roots = allowed[module.split(".")[0]]
            assert any(f"{name}.".startswith(f"{root}.") for root in roots), f"{module} imports {name}"


# The rooms of a package from the ground up: each imports only from those before it (and from programs nothing does).
ROOMS = {
    "augment": ("views", "request", "backends", "stream", "service"),
    "trainer": ("parallel", "model", "methods", "config", "record", "engine", "evaluation", "comparison"),
}


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_stand_on_those_below_them(package):
    floors = {f"{package}.{room}": floor for floor, room in enumerate(ROOMS[package])}

    def floor_of(module: str) -> int | None:
        """None for another package's module; the top for programs and what else lies beside the rooms."""
        name = ".".join(module.split(".")[:2])
        return floors.get(name, len(floors)) if module.split(".")[0] == package and module != package else None

    for module, imports in IMPORTS.items():
        for name in imports:
            if (above := floor_of(module)) is not None and (below := floor_of(name)) is not None:
                assert below <= above, f"{module} imports {name}, which stands above it"


def test_no_circle_of_imports():
    """Neither at the top of files nor within functions."""
    below: dict[str, set[str]] = {}

    def reach(module: str, trail: tuple[str, ...]) -> set[str]:
        assert module not in trail, f"a circle: {' -> '.join((*trail[trail.index(module) :], module))}"
        if module not in below:
            seen = IMPORTS.get(module, set()) - {module}
            below[module] = seen.union(*(reach(name, (*trail, module)) for name in sorted(seen)))
        return below[module]

    for module in MODULES:
        reach(module, ())


@pytest.mark.parametrize("path", SOURCES + CPLUSPLUS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_long(path):
    assert len(path.read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize("package", ["augment", "trainer"])
def test_no_file_compares_with_the_name_of_a_policy_or_a_method(package):
    """Records say what counts (`augment.views.kinds`, `trainer.methods.registry`), so a new one is one file."""
    from augment.views.kinds import KINDS
    from trainer.methods.registry import METHODS

    names = KINDS.keys() | METHODS.keys()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                for side in ast.walk(node):
                    assert not (isinstance(side, ast.Constant) and side.value in names), f"{path}:{node.lineno}"
