"""What README shows works: its commands run as they stand (training cut short), its code too, its targets exist."""

import builtins
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
SHORT = ["--epochs", "1", "--arch", "resnet10w16", "--size", "64", "--batch-size", "32", "--no-evaluate"]


def block(language: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert len(found) == 1
    return found[0]


@pytest.fixture(scope="module")
def workplace(shared_data, tmp_path_factory):
    """A folder with data/CUB_200_2011 in it, where README's commands are typed."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "data").mkdir()
    (folder / "data" / "CUB_200_2011").symlink_to(shared_data / "CUB_200_2011")
    return folder


def test_commands_run(workplace, run_here, monkeypatch):
    monkeypatch.chdir(workplace)
    commands = [line for line in block("sh").splitlines() if line.startswith("python -m ")]
    assert len(commands) == 5
    for line in commands:
        module, *arguments = shlex.split(line)[2:]
        if "--epochs" in arguments:
            arguments += SHORT
        done = run_here(module, *arguments)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    for made in ("cache/cub.h5", "boxes.png", "views.png", "runs/cub/encoder.safetensors"):
        assert (workplace / made).stat().st_size > 1000, made


def test_python_runs(workplace, monkeypatch):
    import torch

    from precompute import boxes

    monkeypatch.chdir(workplace)
    if not Path("cache/cub.h5").exists():
        assert not boxes.program(["--dataset", "cub"])
    seen = []

    def loss(q, k):
        seen.append((q.shape, k.shape))

    names = {"my_loss": loss, "my_net": torch.nn.Identity(), "range": lambda n: builtins.range(1)}
    exec(block("python").replace("batch_size=256", "batch_size=32"), names)
    assert len(seen) == len(names["views"]) == 3
    assert set(seen) == {((32, 3, 224, 224),) * 2}
    assert names["where"].shape == (32, 7, 7)
    names["views"].close()


def test_make_targets_and_files_exist():
    targets = set(re.findall(r"`make (\w+)`|^    make (\w+)", README, re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text()
    for target in {a or b for a, b in targets}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for _, path in re.findall(r"!\[(.*?)\]\((.*?)\)", README, re.DOTALL):
        assert (ROOT / path).is_file(), path
    for module in re.findall(r"python -m ((?:precompute|augment|trainer|benchmarks)\.\w+)", README):
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module
