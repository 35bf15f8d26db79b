"""How every program starts and ends, how settings become flags, how files are replaced."""

import errno
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from precompute.base import errors, options
from precompute.base import program as programs
from precompute.base.files import replacing, sweep

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("precompute", "augment", "trainer", "benchmarks")
PROGRAMS = sorted(
    str(path.relative_to(ROOT).with_suffix("")).replace(os.sep, ".")
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if 'if __name__ == "__main__"' in path.read_text()
)


@pytest.mark.parametrize("module", PROGRAMS)
def test_help_answers_at_once_and_shows_an_example(module, run_module):
    done = run_module(module, "--help", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0, done.stderr
    assert f"python -m {module}" in done.stdout
    # Not a stop-watch (these machines are noisy): the slow imports themselves must not have happened.
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "torchvision", "nvidia.dali", "h5py", "scipy", "matplotlib", "kornia"}


@pytest.mark.parametrize("module", PROGRAMS)
def test_unknown_flag_is_a_usage_error(module, run_here):
    done = run_here(module, "--no-such-flag")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@dataclass(frozen=True)
class Settings:
    count: int = options.option(3, "how many")
    name: str | None = options.option(None, "a name")
    fast: bool = options.option(True, "be quick")
    span: tuple[float, ...] = options.option((0.1, 2.0), "from, to")
    kind: str = options.option("a", "which one", choices=("a", "b"))

    def __post_init__(self):
        if self.count < 0:
            raise ValueError(f"count={self.count}: must be 0 or more")


def parse(*arguments: str) -> Settings:
    import argparse

    parser = argparse.ArgumentParser()
    options.add_options(parser, Settings)
    return options.read_options(Settings, parser.parse_args(arguments))


def test_flags_and_dataclass_have_the_same_defaults():
    assert parse() == Settings()
    assert parse("--count", "5", "--no-fast", "--span", "1", "2", "--name", "x", "--kind", "b") == Settings(
        5, "x", False, (1.0, 2.0), "b"
    )
    with pytest.raises(errors.UsageError, match="count=-1"):
        parse("--count", "-1")
    assert options.as_json(Settings())["span"] == [0.1, 2.0]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.UserError("no"), 1),
        (errors.UsageError("no"), 2),
        (KeyboardInterrupt(), 130),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y.h5"), 1),
    ],
)
def test_exit_status_and_no_traceback(error, status, capsys):
    def program(argv):
        raise error

    with pytest.raises(SystemExit) as stopped:
        programs.main(program, [])
    assert stopped.value.code == status
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    if isinstance(error, OSError):
        assert "/x/y.h5" in shown
        assert "No space left" in shown


def test_what_follows_a_ctrl_c_is_the_ctrl_c(capsys):
    """Within `threading` it comes out as RuntimeError now and then, from a lock that was not acquired."""

    def program(argv):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError("cannot release un-acquired lock") from None

    with pytest.raises(SystemExit) as stopped:
        programs.main(program, [])
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "\ninterrupted\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_ctrl_c_within_an_exec_gives_the_status_too():
    """As within an import of dataclasses: CPython remembers a KeyboardInterrupt there, and dies by the signal."""
    code = """
import signal
from precompute.base import errors, options
from precompute.base import program as programs
programs.main(lambda argv: exec("signal.raise_signal(signal.SIGINT)", {"signal": signal}), [])
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "\ninterrupted\n")


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        programs.main(lambda argv: 1 // 0, [])


def test_replacing_is_all_or_nothing(tmp_path):
    target = tmp_path / "new" / "file.json"
    with replacing(target) as temporary:
        temporary.write_text("1")
        assert not target.exists()
    assert target.read_text() == "1"
    with pytest.raises(ZeroDivisionError), replacing(target) as temporary:
        temporary.write_text(str(1 // 0))
    assert target.read_text() == "1"
    assert os.listdir(target.parent) == ["file.json"]
    (target.parent / ".file.json.abc.tmp").touch()
    assert sweep(target) == 1
    assert os.listdir(target.parent) == ["file.json"]


class TestDemo:
    def test_same_call_same_files_and_cub_layout(self, tmp_path, demo_root):
        from precompute.demo import CLASS_NAMES, make_demo

        make_demo(tmp_path / "again", images=96, quiet=True)
        names = sorted(p.relative_to(demo_root) for p in demo_root.rglob("*") if p.is_file())
        assert len([n for n in names if n.suffix == ".jpg"]) == 96
        for name in names:
            assert (demo_root / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
        assert len((demo_root / "classes.txt").read_text().split()) == 2 * len(CLASS_NAMES)
        assert (demo_root / "train_test_split.txt").read_text().split()[1::2].count("1") == 48

    def test_boxes_hold_the_object_and_are_off_centre(self, demo_root):
        from PIL import Image

        files = dict(line.split() for line in (demo_root / "images.txt").read_text().splitlines())
        centres = []
        for line in (demo_root / "bounding_boxes.txt").read_text().splitlines():
            key, *numbers = line.split()
            x, y, w, h = map(float, numbers)
            with Image.open(demo_root / "images" / files[key]) as picture:
                assert picture.format == "JPEG"
                assert 0 <= x < x + w <= picture.width
                assert 0 <= y < y + h <= picture.height
                assert w * h > 0.02 * picture.width * picture.height
                centres.append(abs((x + w / 2) / picture.width - 0.5))
        assert sum(c > 0.15 for c in centres) > len(centres) / 3

    def test_a_class_has_its_typical_colours(self):
        import colorsys

        import numpy as np

        from precompute.demo import CLASS_NAMES, _class_colours

        rng, skins = np.random.default_rng(0), []
        for label in range(len(CLASS_NAMES)):
            drawn = [_class_colours(rng, label)[0] for _ in range(30)]
            turns = np.array([colorsys.rgb_to_hsv(*(channel / 255 for channel in rgb))[0] for rgb in drawn])
            mean = np.exp(2j * np.pi * turns).mean()
            assert abs(mean) > 0.96  # a standard deviation below 0.05 turns
            skins.append(np.angle(mean) / (2 * np.pi) % 1)
        gaps = np.diff(np.sort(skins))
        assert gaps.min() > 0.03

    def test_never_touches_a_foreign_folder(self, tmp_path):
        from precompute.demo import make_demo

        (tmp_path / "keep.txt").write_text("mine")
        with pytest.raises(errors.UserError, match="is not this demo set"):
            make_demo(tmp_path)
        with pytest.raises(errors.UserError, match="at least 32"):
            make_demo(tmp_path / "few", images=5)
        assert os.listdir(tmp_path) == ["keep.txt"]

    def test_a_full_disk_names_the_folder_and_leaves_nothing(self, tmp_path, monkeypatch):
        from PIL import Image

        from precompute.demo import make_demo

        def full(*_, **__):
            raise OSError(28, "No space left on device")  # as Pillow raises it: nameless

        monkeypatch.setattr(Image.Image, "save", full)
        with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / 'demo'}'"):
            make_demo(tmp_path / "demo", quiet=True)
        assert os.listdir(tmp_path) == []


def test_devices_and_folders_are_never_replaced(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(OSError, match="no plain file"), replacing(fifo):
        raise AssertionError("it must not begin")
    assert fifo.is_fifo()
    with pytest.raises(IsADirectoryError), replacing(tmp_path):
        raise AssertionError("it must not begin")
    assert [path.name for path in tmp_path.iterdir()] == ["fifo"]


@pytest.mark.parametrize(("argument", "value"), [("--name=~/x.h5", "/home/me/x.h5"), ("--name=a~b", "a~b")])
def test_a_tilde_is_the_home_folder(monkeypatch, argument, value):
    """A shell leaves the one behind = as it is."""
    monkeypatch.setenv("HOME", "/home/me")
    parser = options.Parser("module", None)
    options.add_options(parser, Settings)
    parser.add_argument("weights")
    parsed = parser.parse_args([argument, "~/w.pth"])
    assert (parsed.name, parsed.weights) == (value, "/home/me/w.pth")


def test_a_terminal_of_ascii_ends_no_program():
    code = "from precompute.base import program; program.main(lambda argv: print('4\u00d74 \u00b1 1'), [])"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, b"4\\xd74 \\xb1 1\n", b"")
