"""Real photographs, and the result of a real run of benchmarks.throughput."""

import json

import pytest


@pytest.fixture(scope="session")
def cub_images(shared_data, cub_boxes):
    """Real photographs with their boxes."""
    from augment.stream.imageset import ImageSet

    return ImageSet.open(cub_boxes, shared_data / "CUB_200_2011")


@pytest.fixture(scope="session")
def demo_result(boxes, tmp_path_factory, run_module):
    """A real, small run of benchmarks.throughput on the demo set: the result, and the file that holds it."""
    folder = tmp_path_factory.mktemp("throughput")
    done = run_module(
        "benchmarks.throughput", "--boxes", boxes, "--size", 64, "--batch", 16, "--batches", 1,
        "--repeats", 2, "--rounds", 2, "--peers", "pillow", "--backends", "kornia:linear", "--json",
        "--out", folder / "r.json", timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), folder / "r.json"


@pytest.fixture(scope="session")
def boxes(demo_root, tmp_path_factory):
    """A box file of the demo set, read as cub."""
    from precompute.boxes import make_boxes

    out = tmp_path_factory.mktemp("as_cub") / "demo.h5"
    make_boxes("cub", root=str(demo_root), out=str(out), say=lambda line: None)
    return out


@pytest.fixture
def demo_images(boxes, demo_root):
    """Its images."""
    from augment.stream.imageset import ImageSet

    return ImageSet.open(boxes, demo_root)
