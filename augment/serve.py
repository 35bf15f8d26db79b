"""Lends this machine's cores, or a Ray cluster's, to trainings: helpers that decode and cut their batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from augment.request import Source
from precompute.base.errors import BadValue
from precompute.base.options import Parser, add_options, group, option, read_options
from precompute.base.program import main

if TYPE_CHECKING:
    from augment.service.cluster import Crew

EXAMPLE = """examples:
  python -m augment.serve --boxes cache/cub.h5 --root data/CUB_200_2011                  # this machine alone
  RAY_AUTH_MODE=token ray start --head                                                  # a cluster: on one machine,
  RAY_AUTH_MODE=token ray start --address HOST:6379                                     # on every other,
  python -m augment.serve --address auto --boxes cache/cub.h5 --root data/CUB_200_2011   # and once on any of them

It prints what a training is to be started with. Helpers begin on machines that join later too, and end with this
program; trainings then go on by themselves. Every machine needs this project, the same versions of Python and Ray, the
box file and the images under these names, and the token of the first machine in ~/.ray/auth_token.
"""


@dataclass(frozen=True)
class ServeConfig:
    """What is served, and by how many."""

    source: Source = group(Source, "pictures", hidden=("split", "own_backgrounds", "maps"))
    address: str | None = option(
        None, "of the Ray cluster, HOST:PORT or auto (the one of this machine); default: a new one that only programs "
        "on this machine can reach",
    )  # fmt: skip
    helpers: int = option(1, "helpers on every machine", least=1)
    workers: int = option(0, "threads of each helper; 0: one per core", least=0)
    every: float = option(60.0, "seconds between two lines about what the helpers do", above=0)

    def __post_init__(self) -> None:
        if self.source.boxes is None:
            raise BadValue("boxes", None, "the box file", "Name it, and --root DIR where its images have moved")


def program(argv: Sequence[str] | None = None) -> int:
    """Starts helpers and says what they do, until it is stopped."""
    words = "Helpers decode and cut batches for trainings with --service ray, on every machine of a Ray cluster."
    parser = Parser("augment.serve", words, EXAMPLE)
    add_options(parser, ServeConfig)
    config = read_options(ServeConfig, parser.parse_args(argv))

    import time

    from augment.service.cluster import Crew, connect, token_in_use
    from augment.stream.imageset import ImageSet

    ImageSet.open(config.source.boxes, config.source.root).close()  # a mistake shows here, not on every machine
    ray = connect(config.address)
    crew = Crew(ray, config.source, config.workers, config.helpers)
    address = ray.get_runtime_context().gcs_address
    print(f"helpers for {config.source.boxes}. Train with: --service ray --address {address}", flush=True)
    print(f"and with the same token: {token_in_use()}", flush=True)
    try:
        while True:
            _watch(crew, time.monotonic() + config.every)
            for line in crew.report():
                print(line, flush=True)
    finally:
        ray.shutdown()


def _watch(crew: "Crew", until: float) -> None:
    """Starts helpers on machines that are new, until this time of `time.monotonic`."""
    import time

    while (left := until - time.monotonic()) > 0:
        for line in crew.hire():
            print(line, flush=True)
        time.sleep(min(left, 1.0))


if __name__ == "__main__":
    main(program)
