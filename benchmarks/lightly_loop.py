"""The peer of benchmarks.step: BYOL as in lightly's example."""

import copy
from collections.abc import Callable
from typing import Any

import torch

from precompute.base.errors import UserError
from trainer.config.choices import Hardware
from trainer.config.run import ModelConfig
from trainer.model.resnets import build_encoder, feature_widths
from trainer.train import autocast_of


def lightly_byol(
    arch: str, kind: str, settings: Any, hardware: Hardware
) -> Callable[[tuple[torch.Tensor, ...]], torch.Tensor]:
    """One step of lightly's BYOL example on two views: its heads, criterion, EMA and LARS, our head widths and rates.

    Raises UserError where lightly is not installed.
    """
    try:
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
        from lightly.models.utils import deactivate_requires_grad, update_momentum
        from lightly.utils.lars import LARS
    except ImportError as error:
        raise UserError(f"the peer is missing ({error}): pip install 'saliencyswap[peers]'") from error

    backbone = build_encoder(arch)
    width, dim = feature_widths(backbone)[4], ModelConfig.dim
    online = torch.nn.Sequential(backbone, torch.nn.Flatten(1), BYOLProjectionHead(width, settings.hidden, dim))
    online = online.to(hardware.device)
    predictor = BYOLPredictionHead(dim, settings.hidden, dim).to(hardware.device)
    target = copy.deepcopy(online)
    deactivate_requires_grad(target)
    criterion = NegativeCosineSimilarity()
    parameters = [*online.parameters(), *predictor.parameters()]
    make = LARS if kind == "lars" else torch.optim.SGD
    optimizer = make(parameters, lr=settings.peak_lr, momentum=0.9, weight_decay=settings.weight_decay)
    scaler = torch.amp.GradScaler(hardware.device.split(":")[0], enabled=settings.amp == "fp16")
    autocast = autocast_of(settings.amp, hardware.device)

    def step(views: tuple[torch.Tensor, ...]) -> torch.Tensor:
        update_momentum(online, target, m=0.996)
        with autocast():
            p0, p1 = (predictor(online(view)) for view in views)
            z0, z1 = (target(view).detach() for view in views)
            loss = 0.5 * (criterion(p0, z1) + criterion(p1, z0))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return loss.detach()

    return step
