"""Real photographs, and the result of real runs of benchmarks.throughput."""

import pytest


@pytest.fixture(scope="session")
def cub_images(shared_data, cub_boxes):
    """Real photographs with their boxes."""
    from augment.stream.imageset import ImageSet

    return ImageSet.open(cub_boxes, shared_data / "CUB_200_2011")


@pytest.fixture(scope="session")
def demo_result(boxes, tmp_path_factory):
    """Two real, small runs of benchmarks.throughput on the demo set, merged: the result, and the file that holds it."""
    from benchmarks import results, throughput

    folder = tmp_path_factory.mktemp("throughput")
    flags = ("--boxes", boxes, "--size", 64, "--batch", 16, "--batches", 1, "--repeats", 2, "--rounds", 1, "--peers",
             "pillow", "--backends", "kornia:linear", "--out")  # fmt: skip
    runs = [folder / "1.json", folder / "2.json"]
    for run in runs:
        assert throughput.program([*map(str, flags), str(run)]) == 0
    document = results.merged([results.load(run) for run in runs])
    results.save(document, folder / "r.json")
    return document, folder / "r.json"


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
