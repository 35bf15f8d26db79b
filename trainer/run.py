"""Trains an encoder: box file and images to encoder.safetensors, metrics.jsonl and figures.

python -m trainer.run --preset demo                     # the demo set, two minutes on two CPU cores
python -m trainer.run --boxes cache/cub.h5 --root data/CUB_200_2011 --epochs 400 --out runs/cub
python -m trainer.run --resume runs/cub                 # goes on where it was stopped or killed
python -m trainer.run --resume auto --boxes cache/cub.h5 --epochs 400 --out runs/cub   # begins, or goes on
"""

from pathlib import Path

from precompute.base.options import values_of
from precompute.base.program import main
from trainer.config.choices import let_idle_threads_sleep
from trainer.config.command_line import AUTO, after_restart, config_of, continued, parse


def program(argv: list[str] | None = None) -> int:
    """Parses the command line, then trains. Exit status 0 done, 1 failed, 2 usage, 130 stopped (and saved)."""
    let_idle_threads_sleep()
    values, given, asked = parse(argv, __doc__)
    resume, notes = after_restart(asked)
    config = config_of(values) if resume in (None, AUTO) else None  # a bad value answers before torch is imported
    from trainer.record import checkpoint
    from trainer.train import train

    out = Path(values.get("out") or config_of({}).run.out)
    begun = checkpoint.any_in(out)
    if config is not None and not (resume == AUTO and begun):
        return train(config, notes=[*notes, *config.idle_notes(given)])
    resumed = checkpoint.to_resume(out if config is not None or (notes and begun) else Path(resume or out))
    return train(continued(resumed, values if config is None else values_of(config)), resumed, notes)


if __name__ == "__main__":
    main(program)
