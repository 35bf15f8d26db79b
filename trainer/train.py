"""The training loop: `train` reads top to bottom, `train_step` is one step of it."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain, repeat
from typing import Any

import torch
from torch import Tensor

from precompute.base.errors import BadFile, UserError
from precompute.base.program import stop_signal
from trainer.config.run import RunConfig
from trainer.engine.cost import peak_flops, peak_memory, step_flops
from trainer.engine.diagnostics import collapse_warning, diagnose, matched, matching_warning, no_background
from trainer.engine.optim import ema_momentum, learning_rate, set_lr
from trainer.engine.start import AUTOCAST, Run, compile_networks, start
from trainer.engine.state import TrainingState
from trainer.methods.base import match_of
from trainer.methods.losses import bilinear_masks
from trainer.parallel import collectives
from trainer.parallel.stop_vote import StopVote
from trainer.record.checkpoint import Resumed
from trainer.record.export import save_encoder
from trainer.record.folder import evaluation_in
from trainer.record.metrics import SHARERS, log_line
from trainer.record.model_card import write_card

Autocast = Callable[[], AbstractContextManager]


def train(config: RunConfig, resumed: Resumed | None = None, notes: Iterable[str] = ()) -> int:
    """Runs `config` to its end, or until a signal stops it (then 130, with everything saved); prints `notes`."""
    with start(config, resumed, notes) as run:
        done = loop(run)
    if not done:
        run.say(f"stopped at step {run.state.step} and saved. Go on with: {collectives.resuming(run.out)}")
    elif run.process.first:
        finish(run)
    run.journal.close()
    collectives.stop()
    return 0 if done else 130


def loop(run: Run) -> bool:
    """Steps until the end (True) or until a signal asks to stop (False); saves in both cases."""
    state, settings, saver, meter = run.state, run.settings, run.saver, run.state.meter
    autocast = autocast_of(settings.amp, run.hardware.device)
    flops = step_flops(state.method, run.config.views.size)
    views = chain.from_iterable(repeat(state.loader))  # epoch after epoch from where the loader stands
    vote = StopVote(run.process)
    meter.restart_clock()
    first, began = state.step + 1, time.perf_counter()  # of this process
    stopped = False
    with stop_signal() as stop:
        while state.step < settings.steps:
            waiting = time.perf_counter()
            batch = next(views)
            waited = time.perf_counter() - waiting

            last = state.step + 1 == settings.steps
            line = (state.step + 1) % settings.log_every == 0 or last
            health: dict[str, Tensor] | None = {} if line else None
            terms = advance(state, batch, autocast, health)
            meter.add(terms, waited)

            if health is not None:
                _log(run, flops, health)
            if state.step == first:
                _leave_out(run, began)
            stopped, late = vote(state.step, stop.is_set, saver.late())
            if stopped or last or late or saver.due(state.step):
                meter.share()
                state.check_finite(meter.means(), run.out, weights=True)
                if run.process.first:
                    run.journal.sync()
                saver.save(state)
                meter.restart_clock()
            if stopped:
                break
    # Also where the request came with the last step: what is left to do, the evaluation, may take long.
    return not vote.last(stopped or stop.is_set)


def _leave_out(run: Run, began: float) -> None:
    """Begins the clock anew after a first step that compiled the networks, or chose cuDNN's kernels; says how long."""
    cuda = run.hardware.device.startswith("cuda")
    if not (cuda or run.config.run.compile):
        return
    if cuda:
        torch.cuda.synchronize(run.hardware.device)
    seconds = time.perf_counter() - began
    what = "compiling the networks" if run.config.run.compile else "choosing kernels"
    run.say(
        f"first step: {seconds:.1f} s with {what}, left out of the rates. What it did not need (the diagnoses of log "
        "lines, the evaluation) has its own first time later"
    )
    run.state.meter.restart_clock()


def advance(
    state: TrainingState, batch: Any, autocast: Autocast, health: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The next step of the run: its learning rate, `train_step`, the target's move."""
    settings = state.settings
    set_lr(state.optimizer, learning_rate(state.step, settings.steps, settings.warmup, settings.peak_lr))
    terms = train_step(state, batch, autocast, health)
    scheduled = ema_momentum(state.step, settings.steps, state.config.model.ema)
    state.method.after_step(state.method.momentum(scheduled))
    state.step += 1
    return terms


def train_step(
    state: TrainingState, batch: Any, autocast: Autocast, health: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """One optimizer step on one batch; loss and terms as detached scalars on the device (no host sync).

    `health`, if given, is filled with the diagnoses of the step's first part.
    """
    config = state.config
    pieces, grids = config.schedule.accumulate, state.grids.items()
    masks = [{stage: _mask(config, batch, view, grid) for stage, grid in grids} for view in range(len(batch.views))]
    wanted = grids if config.model.record.matches else ()
    matches = [{stage: match_of(batch, view, grid) for stage, grid in wanted} for view in range(len(batch.views))]
    sums: dict[str, Tensor] = {}
    left = state.method.passes * pieces
    for i in range(pieces):
        if config.run.compiled == "reduce-overhead":
            # CUDA graphs write their results where the last ones were. By itself torch would take the second pass of a
            # step for a new step, and overwrite the target's maps that it needs.
            torch.compiler.cudagraph_mark_step_begin()
        views = [view.chunk(pieces)[i] for view in batch.views]
        parts = state.method.parts(views, _piece(masks, pieces, i), _piece(matches, pieces, i))
        for _ in range(state.method.passes):
            left -= 1
            with state.method.synchronised(left == 0):
                with autocast():
                    part = next(parts)
                if health is not None and not health:
                    health.update(diagnose(state.method, part))
                    if config.views.kind.pastes:
                        health["no_background"] = no_background(batch.rects[:, 0], config.views.size)
                    if part.keys is not None:
                        seen = match_of(batch, 0, part.online.z[4].shape[-1])
                        health["matched"] = matched(part, *(x[: len(views[0])] for x in seen))
                state.scaler.scale(part.loss / pieces).backward()
            for name, value in (("loss", part.loss), *part.terms.items()):
                value = value.detach() / pieces
                sums[name] = sums[name] + value if name in sums else value
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    return sums


def _mask(config: RunConfig, batch: Any, view: int, grid: int) -> Tensor:
    """δ(M) of one view on the grid: exact cover, or the letter's bilinear resize."""
    if config.loss.alignment.mask == "bilinear":
        return bilinear_masks(batch.rects[:, view], config.views.size, grid)
    return batch.masks(view, grid)


def _piece(by_view: Sequence[dict[int, Any]], pieces: int, i: int) -> list[dict[int, Any]]:
    """Part i of masks or matches along the samples (gradient accumulation)."""

    def cut(values: Any) -> Any:
        return values.chunk(pieces)[i] if isinstance(values, Tensor) else type(values)(*map(cut, values))

    return [{stage: cut(values) for stage, values in of_view.items()} for of_view in by_view]


def _log(run: Run, flops: float, health: dict[str, Tensor]) -> None:
    """Prints and writes a log line, and begins a new interval. `flops`: of a step, per source image."""
    row = _row(run, flops, health)
    run.state.check_finite(row, run.out)
    run.say(log_line(row))
    images = run.settings.batch_size // (run.hardware.world * run.config.schedule.accumulate)  # of a diagnosed part
    for warning in filter(None, (collapse_warning(row, images), matching_warning(row))):
        run.say(warning)
    if run.process.first:
        run.journal.add("step", **row)
    run.state.meter.reset()


def _row(run: Run, flops: float, health: dict[str, Tensor]) -> dict[str, Any]:
    """The log line's values."""
    state, settings, hardware = run.state, run.settings, run.hardware
    timing = state.meter.timing(settings.batch_size)
    timing["gflops"] = round(timing["images_per_second"] * flops / 1e9, 1)
    if peak := peak_flops(hardware.name, settings.amp):
        timing["mfu"] = timing["images_per_second"] * flops / (peak * hardware.world)
    if memory := peak_memory(hardware.device):
        timing["memory_gib"] = round(memory, 2)
    seen = state.loader.report()
    for part, names in SHARERS.items():
        timing |= {name: seen[part][name] for name in names if part in seen}
    return {
        "step": state.step,
        "steps": settings.steps,
        "epoch": 1 + (state.step - 1) // settings.steps_per_epoch,
        "epochs": run.config.schedule.epochs,
        **collectives.average(state.meter.means(), hardware.device),
        "lr": state.optimizer.param_groups[0]["lr"],
        **collectives.average({k: v.item() for k, v in health.items()}, hardware.device, known=True),
        **timing,
    }


def autocast_of(amp: str, device: str) -> Autocast:
    """A maker of autocast contexts; of empty ones for "off"."""
    if amp == "off":
        return nullcontext
    return lambda: torch.autocast(device.split(":")[0], dtype=AUTOCAST[amp])


def finish(run: Run) -> None:
    """Exports the encoder and, where a split is held out for it, evaluates it."""
    method = run.state.method
    compile_networks(method, None)  # evaluation sees each shape a few times only
    path = save_encoder(method.online.encoder, run.out, run.config)
    run.say(f"encoder: {path} (torchvision's key names; {run.config.model.arch} without fc)")
    evaluation = evaluation_in(run.out)  # of a run that was done before: it keeps that where none is wanted now
    if run.held_out is not None:
        from trainer.evaluation.run_report import evaluate_run

        try:
            evaluation = evaluate_run(run.state, run.data, run.held_out, run.out, run.say)
        except (KeyboardInterrupt, UserError) as error:
            more = ("--on-bad", "replace") if isinstance(error.__cause__, BadFile) else ()
            run.say(f"trained and saved, but not evaluated. For that: {collectives.resuming(run.out, *more)}")
            raise
    if evaluation is not None:
        run.journal.add("evaluation", step=run.state.step, **evaluation)
    run.say(f"model card: {write_card(run.out, evaluation)}")
