"""The training loop: `train` reads top to bottom, `train_step` is one step of it."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from precompute.base.errors import BadFile, UserError
from precompute.base.options import as_json
from precompute.base.program import stop_signal
from precompute.base.ranks import Process
from trainer.config.choices import Hardware, decide, find_hardware
from trainer.config.run import RunConfig
from trainer.engine.build import describe, surroundings
from trainer.engine.cost import peak_flops, peak_memory, restart_peak_memory, step_flops
from trainer.engine.data import Data, open_data
from trainer.engine.diagnostics import collapse_warning, diagnose, no_background
from trainer.engine.optim import ema_momentum, learning_rate, set_lr
from trainer.engine.setup import compile_networks, held_out_of, make_state, open_loader
from trainer.engine.state import Saver, TrainingState
from trainer.methods.base import Masks
from trainer.methods.losses import bilinear_masks
from trainer.model.export import save_encoder
from trainer.model.networks import train_mode
from trainer.model.resnets import ONEDNN, build_encoder, feature_widths, grid_of
from trainer.parallel import collectives
from trainer.parallel.stop_vote import StopVote
from trainer.record import checkpoint
from trainer.record.checkpoint import Resumed
from trainer.record.folder import run_folder
from trainer.record.metrics import Journal, log_line
from trainer.record.model_card import write_card
from trainer.record.tensorboard import Board
from trainer.record.tensorboard import require as require_board

Say = Callable[[str], None]


def train(config: RunConfig, resumed: Resumed | None = None, notes: Sequence[str] = ()) -> int:
    """Runs `config` to its end, or until a signal asks it to stop (then 130, with everything saved); says `notes`."""
    if config.tensorboard:
        require_board()
    hardware, reasons = find_hardware(config.device)
    process = collectives.start(hardware.device)
    restart_peak_memory(hardware.device)
    torch.backends.cudnn.benchmark = True  # shapes never change; without effect on the CPU
    say = _say if process.first else _keep_quiet
    with collectives.first_alone(process):
        data = open_data(config.dataset, config.boxes, config.root, say)
    images = len(data.cache.indices(data.split(config.train_split, "--train-split")))
    held_out = held_out_of(config, data)  # before the training: a mistake here would show hours later
    if config.evaluate and held_out is None:
        reasons.append(f"no evaluation: {data.nothing_held_out}")
    torch.backends.mkldnn.enabled = ONEDNN  # type: ignore[assignment] - a run of compare's before may have done without
    encoder = build_encoder(config.arch)
    settings, more = decide(config, images, feature_widths(encoder)[4], hardware)
    for reason in reasons + more:
        say("chosen: " + reason)
    for note in notes:
        say("note: " + note)

    out = Path(config.out)
    with (
        run_folder(out, resumed and resumed.path, process.first, say),
        open_loader(config, data, settings, hardware.device, process, say) as loader,
    ):
        masked = {"cvsa": config.align_stages, "instloc": (4,)}.get(config.method, ())  # stages that need masks
        grids = {stage: grid_of(encoder, config.size, stage) for stage in masked}
        torch.manual_seed(config.seed)  # some methods draw in the step; compare's runs follow each other in one process
        state = make_state(config, settings, loader, hardware, process, say, fresh=resumed is None)
        say(describe(config, settings, state.method, grids))

        board = Board(out) if config.tensorboard and process.first else None
        journal, saver = Journal(out, board), Saver(out, settings.save_every, process.first)
        if resumed:
            state.restore(resumed)
            saver.saved = state.step
            left = "" if state.step < settings.steps else ": nothing is left to train"
            say(f"resumed at step {state.step} of {settings.steps} from {resumed.path}{left}")
            if resumed.remark:
                say("note: " + resumed.remark)
        if process.first:
            about = surroundings(data, config.views())
            header = {"config": as_json(config), "settings": as_json(settings), "about": about}
            _open_journal(journal, header, state, resumed, say)
        # Not over the previous checkpoint where that is the one that was good.
        saver.save(state, keep=resumed is None or resumed.path.name == checkpoint.NAME)
        done = _loop(state, grids, hardware, process, journal, saver, say)
    if not done:
        say(f"stopped at step {state.step} and saved. Go on with: {collectives.resuming(out)}")
    elif process.first:
        _finish(state, data, held_out, journal, out, say)
    if board:
        board.close()
    collectives.stop()
    return 0 if done else 130


def _open_journal(
    journal: Journal, header: dict[str, Any], state: TrainingState, resumed: Resumed | None, say: Say
) -> None:
    """Begins metrics.jsonl with `header`, or takes it back to the step that the run goes on from."""
    if resumed is None:
        journal.begin(header)
        return
    began = journal.rewind(state.step, header, resumed.path.parent)["about"].get("threads")
    if began != (now := header["about"]["threads"]):
        say(
            f"note: begun with {began} threads, now there are {now}; on a CPU only OMP_NUM_THREADS={began} is bit-equal"
        )


def _loop(
    state: TrainingState,
    grids: dict[int, int],
    hardware: Hardware,
    process: Process,
    journal: Journal,
    saver: Saver,
    say: Say,
) -> bool:
    """Steps until the end (True) or until a signal asks to stop (False); saves in both cases."""
    config, settings, meter = state.config, state.settings, state.meter
    autocast = autocast_of(settings.amp, hardware.device)
    for network in (state.method.online, state.method.target):
        if network is not None:
            train_mode(network, config.freeze_stages)
    cost = step_flops(state.method, config.size)
    views = _batches(state.loader)
    vote = StopVote(process)
    meter.restart_clock()
    stopped = False
    with stop_signal() as stop:
        while state.step < settings.steps:
            waiting = time.perf_counter()
            batch = next(views)
            waited = time.perf_counter() - waiting

            last = state.step + 1 == settings.steps
            line = (state.step + 1) % settings.log_every == 0 or last
            health: dict[str, Tensor] | None = {} if line else None
            terms = advance(state, batch, grids, autocast, health)
            meter.add(terms, waited)

            if health is not None:
                row = _row(state, hardware, cost, health)
                state.check_finite(row, saver.folder)
                say(log_line(row))
                if warning := collapse_warning(row):
                    say(warning)
                if process.first:
                    journal.add("step", **row)
                meter.reset()
            stopped, late = vote(state.step, stop.is_set, saver.late())
            if stopped or last or late or saver.due(state.step):
                meter.share()
                state.check_finite(meter.means(), saver.folder, weights=True)
                if process.first:
                    journal.sync()
                saver.save(state)
                meter.restart_clock()
            if stopped:
                break
    # Also where the request came with the last step: what is left to do, the evaluation, may take long.
    return not vote.last(stopped or stop.is_set)


def advance(
    state: TrainingState,
    batch: Any,
    grids: dict[int, int],
    autocast: Callable[[], AbstractContextManager],
    health: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The next step of the run: its learning rate, `train_step`, the target's move."""
    settings = state.settings
    set_lr(state.optimizer, learning_rate(state.step, settings.steps, settings.warmup, settings.peak_lr))
    terms = train_step(state, batch, grids, autocast, health)
    state.method.after_step(state.method.momentum(ema_momentum(state.step, settings.steps, state.config.ema)))
    state.step += 1
    return terms


def train_step(
    state: TrainingState,
    batch: Any,
    grids: dict[int, int],
    autocast: Callable[[], AbstractContextManager],
    health: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """One optimizer step on one batch; loss and terms as detached scalars on the device (no host sync).

    `health`, if given, is filled with the diagnoses of the step's first part.
    """
    config = state.config
    masks = [{stage: _mask(config, batch, v, grid) for stage, grid in grids.items()} for v in range(len(batch.views))]
    sums: dict[str, Tensor] = {}
    left = state.method.passes * config.accumulate
    for views, cut in _pieces(batch.views, masks, config.accumulate):
        parts = state.method.parts(views, cut)
        for _ in range(state.method.passes):
            left -= 1
            with state.method.synchronised(left == 0):
                with autocast():
                    part = next(parts)
                if health is not None and not health:
                    health.update(diagnose(state.method, part))
                    if config.policy != "rrc":  # the other policies paste
                        health["no_background"] = no_background(batch.rects[:, 0], config.size)
                state.scaler.scale(part.loss / config.accumulate).backward()
            for name, value in (("loss", part.loss), *part.terms.items()):
                value = value.detach() / config.accumulate
                sums[name] = sums[name] + value if name in sums else value
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    return sums


def _mask(config: RunConfig, batch: Any, view: int, grid: int) -> Tensor:
    """δ(M) of one view on the grid: exact cover, or the letter's bilinear resize."""
    if config.alignment().mask == "bilinear":
        return bilinear_masks(batch.rects[:, view], config.size, grid)
    return batch.masks(view, grid)


def _pieces(views: Sequence[Tensor], masks: Masks, pieces: int) -> Iterator[tuple[Sequence[Tensor], Masks]]:
    """A batch in equal parts along the samples (gradient accumulation)."""
    if pieces == 1:
        yield views, masks
        return
    length = len(views[0]) // pieces
    for start in range(0, length * pieces, length):
        rows = slice(start, start + length)
        yield [v[rows] for v in views], [{s: m[rows] for s, m in per_view.items()} for per_view in masks]


def _batches(loader: Any) -> Iterator[Any]:
    """Batches without end: epoch after epoch from where the loader stands."""
    while True:
        yield from loader


def _row(state: TrainingState, hardware: Hardware, flops: float, health: dict[str, Tensor]) -> dict[str, Any]:
    """The log line's values. `flops`: of a step, per source image."""
    settings, timing = state.settings, state.meter.timing(state.settings.batch_size)
    timing["gflops"] = round(timing["images_per_second"] * flops / 1e9, 1)
    if peak := peak_flops(hardware.name, settings.amp):
        timing["mfu"] = timing["images_per_second"] * flops / (peak * hardware.world)
    if memory := peak_memory(hardware.device):
        timing["memory_gib"] = round(memory, 2)
    return {
        "step": state.step,
        "steps": settings.steps,
        "epoch": 1 + (state.step - 1) // settings.steps_per_epoch,
        "epochs": state.config.epochs,
        **collectives.average(state.meter.means(), hardware.device),
        "lr": state.optimizer.param_groups[0]["lr"],
        **collectives.average({k: v.item() for k, v in health.items()}, hardware.device, known=True),
        **timing,
    }


def autocast_of(amp: str, device: str) -> Callable[[], AbstractContextManager]:
    """A maker of autocast contexts; of empty ones for "off"."""
    if amp == "off":
        return nullcontext
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[amp]
    return lambda: torch.autocast(device.split(":")[0], dtype=dtype)


def _finish(state: TrainingState, data: Data, held_out: str | None, journal: Journal, out: Path, say: Say) -> None:
    """Exports the encoder and, where a split is held out for it, evaluates it."""
    compile_networks(state.method, False)  # evaluation sees each shape a few times only
    path = save_encoder(state.method.online.encoder, out, state.config)
    say(f"encoder: {path} (torchvision's key names; {state.config.arch} without fc)")
    found = None
    if held_out is not None:
        try:
            from trainer.evaluation.run_report import evaluate_run

            found = evaluate_run(state, data, held_out, out, say)
        except (KeyboardInterrupt, UserError) as error:
            more = ("--on-bad", "replace") if isinstance(error.__cause__, BadFile) else ()
            say(f"trained and saved, but not evaluated. For that: {collectives.resuming(out, *more)}")
            raise
        journal.add("evaluation", step=state.step, **found)
    say(f"model card: {write_card(out, found)}")


def _say(line: str) -> None:
    print(line, flush=True)


def _keep_quiet(line: str) -> None:
    pass
