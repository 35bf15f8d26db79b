"""Files that commit 0fb5e1e wrote, before settings were grouped: they load, and training goes on as it would have.

data/older/ holds its box file of 96 pictures of today's demo set, and two runs of 12 steps, made with OMP_NUM_THREADS=1
by

    python -m trainer.run --boxes demo.h5 --root demo --arch resnet10w2 --size 32 --batch-size 16 --dim 8 --hidden 16 \\
        --conv-hidden 8 --device cpu --no-evaluate --pipeline fused --workers 1 --save-every 5 --epochs 4 --method cvsa

(and --method looc): the checkpoint of step 10, metrics.jsonl, and the encoder of step 12.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import __version__ as pillow
from safetensors.torch import load_file

from precompute.base.boxfile import BoxCache
from precompute.base.errors import BadFile

OLDER = Path(__file__).parent / "data" / "older"


@pytest.fixture
def older(demo_root, tmp_path):
    """A folder with the older files and the pictures that they were made of."""
    shutil.copytree(OLDER, tmp_path / "here")
    (tmp_path / "here" / "demo").symlink_to(demo_root)
    cache = BoxCache.open(OLDER / "demo.h5")
    try:
        for row in range(len(cache)):
            cache.read(demo_root, row)
    except BadFile as error:
        if (theirs := cache.provenance["versions"]["pillow"]) == pillow:
            raise  # the demo set has changed: the files must be made anew
        pytest.skip(f"Pillow {pillow} writes other JPEGs than {theirs}, which the box file is of: {error}")
    return tmp_path / "here"


def test_a_box_file_made_before_opens():
    cache = BoxCache.open(OLDER / "demo.h5")
    assert (cache.dataset, len(cache), cache.split_names) == ("demo", 96, ("train", "test"))
    assert float(cache.boxes[:].sum()) == pytest.approx(194.4831, abs=1e-3)


@pytest.mark.parametrize("method", ["cvsa", "looc"])
def test_a_checkpoint_made_before_goes_on_to_the_same_weights(method, older, run_module):
    done = run_module("trainer.run", "--resume", older / method, "--device", "cpu", cwd=older, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert "resumed at step 10 of 12" in done.stdout
    was, now = load_file(OLDER / method / "encoder.safetensors"), load_file(older / method / "encoder.safetensors")
    assert was.keys() == now.keys()
    for name, value in was.items():  # equal to the bit on the same kind of processor
        torch.testing.assert_close(now[name], value, rtol=1e-4, atol=1e-5, msg=name)
    rows = [json.loads(line) for line in (older / method / "metrics.jsonl").read_text().splitlines()]
    before = [json.loads(line) for line in (OLDER / method / "metrics.jsonl").read_text().splitlines()]
    losses = [[row["loss"] for row in kept if row["kind"] == "step"] for kept in (before, rows)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_weights_exported_before_load(older):
    from trainer.model.weights import load_encoder

    encoder, arch, _ = load_encoder(str(older / "cvsa" / "encoder.safetensors"))
    assert arch == "resnet10w2"
    assert torch.equal(
        encoder.state_dict()["conv1.weight"], load_file(OLDER / "cvsa" / "encoder.safetensors")["conv1.weight"]
    )
