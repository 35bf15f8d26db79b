"""No library is loaded that anybody but the user could have put there; C++ reads nothing outside of a picture."""

import ctypes
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from augment import Making, Policy
from augment.backends import native
from augment.backends.decoded import Picture
from augment.backends.fused import FusedBackend
from augment.backends.layout import CROP, leaves
from augment.backends.torch_ops import crop_resize
from precompute.base.private import is_private, let_torch_keep_code_private, own_folder, private_folder

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
PLANTED = 'extern "C" int planted() { return 1; }\n'
# It is built often here: the names of the kernel's functions, without their bodies.
OURS = f'extern "C" {{ {" ".join(f"void {name}() {{}}" for name in native.FUNCTIONS)} }}\n'


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder with a library of somebody else's making under the name that ours has."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "ours.cpp").write_text(OURS)
    monkeypatch.setattr(native, "SOURCES", (tmp_path / "ours.cpp",))
    own_folder.cache_clear()
    path = Path(native.load()._name)
    native._open.cache_clear()
    source = tmp_path / "planted.cpp"
    source.write_text(PLANTED)
    subprocess.run(["g++", "-shared", "-fPIC", source, "-o", path], check=True)
    path.chmod(0o755)
    assert path.parent == tmp_path / "saliencyswap"
    return path


def is_ours(library: ctypes.CDLL) -> bool:
    return hasattr(library, "crops") and not hasattr(library, "planted")


@needs_compiler
@pytest.mark.parametrize("mode", [0o1777, 0o775])
def test_a_cache_folder_that_others_can_write_to_is_emptied_and_closed(planted, mode):
    planted.parent.chmod(mode)
    library = native.load()
    assert is_ours(library)
    assert Path(library._name) == planted
    assert stat.S_IMODE(planted.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(planted.stat().st_mode) == 0o700


@needs_compiler
@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_library_that_others_can_write_to_is_built_anew(planted, mode):
    planted.chmod(mode)
    assert is_ours(native.load())


@needs_compiler
def test_a_link_in_place_of_the_library_is_not_followed(planted, tmp_path):
    planted.rename(tmp_path / "elsewhere.so")
    planted.symlink_to(tmp_path / "elsewhere.so")
    assert is_ours(native.load())
    assert not planted.is_symlink()


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("what", ["folder", "library"])
def test_what_somebody_else_owns_is_not_loaded(planted, tmp_path, what):
    os.chown(planted if what == "library" else planted.parent, 12345, 12345)
    said = []
    library = native.load(said.append)
    assert is_ours(library)
    if what == "folder":
        assert "not yours alone" in said[0]
        assert Path(library._name).parent.name.startswith("saliencyswap-")
        assert stat.S_IMODE(Path(library._name).parent.stat().st_mode) == 0o700
        assert "planted" in planted.read_bytes().decode("latin1")  # theirs stays


@needs_compiler
def test_nothing_of_a_guessable_name_in_the_temporary_folder_is_loaded(planted, tmp_path, monkeypatch):
    """Where there is no cache folder; and the same process builds once."""
    old = tmp_path / f"saliencyswap-{os.getuid()}"
    shutil.copytree(planted.parent, old)
    monkeypatch.setenv("XDG_CACHE_HOME", str(planted))  # a file: no folder can be made in it
    said = []
    first, second = native.load(said.append), native.load(said.append)
    assert is_ours(first)
    assert first is second
    assert Path(first._name).parent != old
    assert sum(line.startswith("building") for line in said) == 1


def test_a_home_that_nobody_has_makes_no_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert private_folder() is None
    assert not list(tmp_path.iterdir())


def test_torch_compiles_into_a_private_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    let_torch_keep_code_private()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "saliencyswap" / "torchinductor")
    assert is_private(tmp_path / "saliencyswap", stat.S_ISDIR)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/their/own")
    let_torch_keep_code_private()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/their/own"


BAD_ROIS = [(-1, 0, 5, 5), (0, -3, 5, 5), (5, 5, 5, 9), (6, 2, 3, 9), (0, 0, 11, 5), (0, 0, 5, 8), (-9, -9, -2, -2)]


@pytest.mark.parametrize("roi", BAD_ROIS)
@pytest.mark.parametrize("compiled", [True, False])
def test_a_crop_that_leaves_its_picture_on_any_side_is_refused(roi, compiled):
    if compiled and shutil.which("g++") is None:
        pytest.skip("needs g++")
    image = torch.zeros((7, 10, 3), dtype=torch.uint8)
    out = np.zeros(4 * 4 * 3, np.uint8)
    jobs = np.zeros(2, CROP)
    jobs["roi"], jobs["width"], jobs["height"], jobs["out"] = [(0, 0, 10, 7), roi], 4, 4, out.ctypes.data
    backend = FusedBackend(Policy(size=32), Making(device="cpu", workers=1).settled(), compiled=compiled)
    with pytest.raises(ValueError, match=r"leaves an image of 10x7 pixels"):
        backend._cut(Picture(image), jobs)
    if backend._library is not None:
        with pytest.raises(ValueError, match=r"leaves an image of 10x7 pixels"):
            backend._cut_kept(backend._library, [Picture(image), Picture(image)], np.array((0, 0, 2)), jobs)
    backend.close()
    with pytest.raises(ValueError, match="leaves an image of 10x7"):
        crop_resize(image.permute(2, 0, 1), np.array(roi), 4, 4)
    assert leaves(np.array([roi]).T, np.array([[10], [7]]))
    assert not leaves(np.array([(0, 0, 10, 7), (9, 6, 10, 7)]).T, np.array([[10], [7]]))


CHECKED = """
#include "{crops}"
#include <random>
#include <cstdio>
// Pictures and results in memory of exactly their size: the sanitizer ends the program at the first byte beyond.
int main() {{
  std::mt19937 random(7);
  auto below = [&](int n) {{ return int(random() % unsigned(n)); }};
  int refused = 0;
  for (int i = 0; i < 4000; ++i) {{
    const int w = 1 + below(i % 4 ? 40 : 300), h = 1 + below(i % 4 ? 40 : 300);
    std::vector<uint8_t> image(3 * size_t(w) * h, uint8_t(i));
    Crop c{{below(w), below(h), 0, 0, 1 + below(40), 1 + below(40), below(2), 0, nullptr}};
    c.x1 = c.x0 + 1 + below(w - c.x0), c.y1 = c.y0 + 1 + below(h - c.y0);
    std::vector<uint8_t> out(3 * size_t(c.width) * c.height);
    c.out = out.data();
    if (crops(image.data(), w, h, 1, &c)) return 1;
    for (uint8_t level : out) if (level != uint8_t(i)) return 2;
    int32_t* const numbers[] = {{&c.x0, &c.y0, &c.x1, &c.y1, &c.width, &c.height}};
    const int32_t odd[] = {{-1, -1000, INT32_MIN, INT32_MAX, 301}};
    const int which = below(6);
    if (which > 3) *numbers[which] = odd[below(3)]; else *numbers[which] = odd[below(5)];
    if (crops(image.data(), w, h, 1, &c) != 1) return 3;
    ++refused;
  }}
  std::printf("%d", refused);
}}
"""


@needs_compiler
@pytest.mark.parametrize("march", ["native", "x86-64"])
def test_crops_stay_in_their_memory_under_sanitizers(tmp_path, march):
    (tmp_path / "main.cpp").write_text(CHECKED.format(crops=native.SOURCES[0]))
    flags = [f.replace("native", march) for f in native.FLAGS if f not in ("-O3", "-shared", "-fPIC")]
    build = ["g++", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", *flags]
    done = subprocess.run([*build, tmp_path / "main.cpp", "-o", tmp_path / "main"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no sanitizers here: {done.stderr[-200:]}")
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "4000"), done.stderr[-2000:]
