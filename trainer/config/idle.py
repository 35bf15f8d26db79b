"""Flags that were given and change nothing in the run at hand, so that nobody counts on their effect."""

from collections.abc import Callable, Collection

from augment.views.policy import BOXED
from trainer.config.choices import optimizer_of
from trainer.config.run import RunConfig

_Counts = Callable[[RunConfig], bool]


def _aligns(config: RunConfig) -> bool:
    return config.method == "cvsa"


def _attends(config: RunConfig) -> bool:
    return _aligns(config) and config.control != "direct-head"


def _pastes(config: RunConfig) -> bool:
    return config.policy != "rrc"


# Flags, whether they count in a run, and what they belong to.
RULES: tuple[tuple[tuple[str, ...], _Counts, str], ...] = (
    (("own",), lambda c: c.policy == "saliencyswap", "--policy saliencyswap"),
    (("mode",), lambda c: c.policy in BOXED, f"--policy {' and '.join(BOXED)}"),
    (("paste_scale", "box_cap", "scene", "group", "backgrounds"), _pastes, "policies that paste, and rrc does not"),
    (("scene_scale",), lambda c: _pastes(c) and c.scene == "zoom", "--scene zoom of policies that paste"),
    (("maps",), lambda c: c.policy == "copy-paste", "--policy copy-paste"),
    (("loss", "reduction", "align_weight", "align_stages", "conv_hidden"), _aligns, "--method cvsa"),
    (("scale",), _attends, "--method cvsa without --control direct-head"),
    (("dim",), lambda c: c.method != "rotpred", "methods with projections, and rotpred's heads tell four turns apart"),
    (("mask",), lambda c: c.method in ("cvsa", "instloc"), "--method cvsa and instloc"),
    (("temperature",), lambda c: _attends(c) and c.alignment().scale == "cosine", "--method cvsa with --scale cosine"),
    (("ema",), lambda c: c.method in ("byol", "cvsa"), "--method byol and cvsa; MoCo's way has 0.999 throughout"),
    (("bias_lr",), lambda c: optimizer_of(c) == "lars", "--optimizer lars"),
    (("momentum",), lambda c: optimizer_of(c) != "adamw", "--optimizer lars and sgd"),
    (("eval_split",), lambda c: c.evaluate, "the evaluation, and there is none"),
)


def idle_flags(config: RunConfig, given: Collection[str]) -> list[str]:
    """One sentence for every field of `config` among `given`, the names of given flags, that has no effect in it."""
    return [
        f"--{name.replace('_', '-')} changes nothing in this run: it belongs to {where}"
        for names, counts, where in RULES
        for name in names
        if name in given and not counts(config)
    ]
