"""ResNets and ViTs behind one interface: their last map, pooled features, width; read from a file.

A ViT's map is its patch tokens after the last norm, laid out as the patches lie; its pooled feature is the class token
there (the mean of the patch tokens where it has none). torchvision's and timm's key names are known; DINO's, MoCo v3's
and MAE's files have timm's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import get_model, list_models
from torchvision.models.resnet import ResNet
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from precompute.base.errors import UsageError, UserError
from precompute.base.weights import differences, require_plain
from trainer.model.resnets import build_encoder, feature_maps, feature_widths, is_resnet, usual_size
from trainer.model.weights import VIT_STEMS, fit_encoder, not_used, prefixes, read_said

_TIMM, _TORCHVISION = VIT_STEMS
# Of classifiers and decoders.
_HEADS = ("head.", "head_dist.", "heads.", "fc_norm.", "pre_logits.", "decoder", "mask_token")
_TIMM_SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large"}


class TokenGrid(nn.Module):
    """A vision transformer whose patch tokens are a map."""

    def __init__(self, vit: nn.Module, width: int, prefix: int) -> None:
        super().__init__()
        self.vit, self.width, self.prefix = vit, width, prefix  # prefix: tokens before the patches', class token first

    def tokens(self, images: Tensor) -> Tensor:
        """[N, prefix + patches, C], after the last norm."""
        if not isinstance(self.vit, VisionTransformer):
            return self.vit.forward_features(images)  # type: ignore[operator]
        patches = self.vit._process_input(images)
        return self.vit.encoder(torch.cat([self.vit.class_token.expand(len(patches), -1, -1), patches], 1))

    def maps(self, images: Tensor) -> Tensor:
        """[N, C, side, side] of square images."""
        cells = self.tokens(images)[:, self.prefix :]
        side = int(cells.shape[1] ** 0.5)
        return cells.transpose(1, 2).unflatten(2, (side, side))

    def pooled(self, images: Tensor) -> Tensor:
        """[N, C]."""
        tokens = self.tokens(images)
        return tokens[:, 0] if self.prefix else tokens.mean(1)


Encoder = ResNet | TokenGrid


def maps(encoder: Encoder, images: Tensor) -> Tensor:
    """The last map [N, C, H, W] of images [N, 3, S, S]."""
    return encoder.maps(images) if isinstance(encoder, TokenGrid) else feature_maps(encoder, images)[4]


def pooled(encoder: Encoder, images: Tensor) -> Tensor:
    """The features [N, C] that a classifier would be given."""
    return encoder.pooled(images) if isinstance(encoder, TokenGrid) else feature_maps(encoder, images)[4].mean((2, 3))


def width(encoder: Encoder) -> int:
    """C of `maps` and `pooled`."""
    return encoder.width if isinstance(encoder, TokenGrid) else feature_widths(encoder)[4]


def load_any(path: str | Path, arch: str | None, size: int | None) -> tuple[Encoder, str, int, str]:
    """The encoder in a weights file, its architecture's name, the side of its images and a sentence about the load.

    `path` "random": `arch`, untrained. `size` None: `usual_size`. Position embeddings are interpolated to
    it. Raises UserError where the file holds neither a ResNet nor a ViT, does not fit `arch`, or needs timm where it is
    not installed.
    """
    if path == "random":
        if arch is None:
            raise UsageError("random weights need --arch, for example --arch resnet18")
        encoder, side = untrained(arch, size)
        return encoder, arch, side, "weights: none, a random initialisation"
    state, said = read_said(path)
    resnet = arch is not None and is_resnet(arch)
    for stem, build in ((_TIMM, _timm), (_TORCHVISION, _torchvision)):
        if not resnet and (networks := prefixes(state, stem)):
            weights = {k.removeprefix(networks[0]): v for k, v in state.items() if k.startswith(networks[0])}
            side = size or 224
            _refuse_cut_patches(side, weights[stem].shape[-1])
            if "base_encoder." in networks[0] and weights[stem].shape[0] == 384 and not arch:
                raise UserError(
                    f"{path}: MoCo v3's small ViT has 12 heads; timm's of these shapes, vit_small_patch16_224, has 6. "
                    "--arch takes it as that"
                )
            encoder, name = build(weights, arch, side, path)
            unused = not_used(sorted(state.keys() - {networks[0] + k for k in _without_heads(weights)}))
            remark = f"weights: all {len(encoder.vit.state_dict())} tensors of {name} from {path}{unused}"
            return encoder, name, side, remark
    encoder, name, remark = fit_encoder(state, said, path, arch)
    return encoder, name, size or usual_size(name), remark


def untrained(arch: str, size: int | None) -> tuple[Encoder, int]:
    """A ResNet, or torchvision's or timm's ViT, of this name at random weights, and the side of its images.

    `size` as for `load_any`. UsageError names what there is, where no such architecture is known.
    """
    side = size or usual_size(arch)
    if arch in list_models(include="vit_*"):
        _refuse_cut_patches(side, _meta(arch).patch_size)
        return _torchvision_vit(arch, side), side
    if arch.startswith(("vit_", "deit_")):
        encoder = _timm_vit(arch, side)
        _refuse_cut_patches(side, encoder.vit.patch_embed.patch_size[0])  # type: ignore[union-attr,index]
        return encoder, side
    return build_encoder(arch), side


def _refuse_cut_patches(side: int, patch: int) -> None:
    if side % patch:
        raise UserError(f"--size {side}: must be a multiple of the ViT's patch of {patch} pixels")


def _torchvision_vit(name: str, size: int) -> TokenGrid:
    vit = get_model(name, weights=None, image_size=size)
    assert isinstance(vit, VisionTransformer)
    vit.heads = nn.Identity()  # type: ignore[assignment]
    return TokenGrid(vit, vit.hidden_dim, prefix=1)


def _torchvision(weights: dict[str, Tensor], arch: str | None, size: int, path: str | Path) -> tuple[TokenGrid, str]:
    """torchvision's ViT of these shapes."""
    wide, patch = weights[_TORCHVISION].shape[0], weights[_TORCHVISION].shape[-1]
    depth = len({k.split(".")[2] for k in weights if k.startswith("encoder.layers.")})
    names = [n for n in list_models(include="vit_*") if n == arch or arch is None]
    for name in names:
        vit = _meta(name)
        if (vit.hidden_dim, vit.patch_size, len(vit.encoder.layers)) == (wide, patch, depth):
            break
    else:
        raise UserError(f"{path}: a ViT of width {wide}, patch {patch}, depth {depth}, which no {arch or 'vit_*'} has")
    resized = interpolate_embeddings(size, patch, _without_heads(weights))  # type: ignore[arg-type]
    encoder = _torchvision_vit(name, size)
    _fill(encoder.vit, resized, name, path)
    return encoder, name


def _meta(name: str) -> VisionTransformer:
    with torch.device("meta"):
        vit = get_model(name, weights=None)
    assert isinstance(vit, VisionTransformer)
    return vit


def _timm_vit(name: str, size: int, unknown: str = "") -> TokenGrid:
    """timm's ViT of this name. UserError where timm is not installed or builds no ViT; `unknown` says what to name."""
    try:
        import timm
        from timm.models.vision_transformer import VisionTransformer as TimmViT
    except ImportError as error:
        raise UserError(f"{name} is timm's, and timm is not installed ({error}): pip install timm") from error
    if not timm.is_model(name):
        if unknown:
            raise UserError(unknown)
        raise UsageError(f"--arch {name}: neither torchvision nor timm {timm.__version__} knows a ViT of this name")
    vit: Any = timm.create_model(name, pretrained=False, num_classes=0, img_size=size)
    if not isinstance(vit, TimmViT):
        raise UserError(f"--arch {name}: timm builds a {type(vit).__name__}; only its VisionTransformer is known here")
    return TokenGrid(vit, vit.embed_dim, vit.num_prefix_tokens)


def _timm(weights: dict[str, Tensor], arch: str | None, size: int, path: str | Path) -> tuple[TokenGrid, str]:
    """timm's ViT of this name, or of these widths."""
    wide, patch = weights[_TIMM].shape[0], weights[_TIMM].shape[-1]
    kind = ("deit_", "_distilled") if "dist_token" in weights else ("vit_", "")  # DeiT's second class token
    name = arch or f"{kind[0]}{_TIMM_SIZES.get(wide, '?')}{kind[1]}_patch{patch}_224"
    if patch == 14 and "blocks.0.ls1.gamma" in weights:
        registers = "reg4_" if {"register_tokens", "reg_token"} & weights.keys() else ""
        name = arch or f"vit_{_TIMM_SIZES.get(wide, '?')}_patch14_{registers}dinov2"
        if "register_tokens" in weights:  # as timm's own reading of DINOv2's files has it
            position = weights.pop("pos_embed")
            weights |= {"reg_token": weights.pop("register_tokens"), "pos_embed": position[:, 1:]}
            weights["cls_token"] = weights["cls_token"] + position[:, :1]
    advice = "name timm's architecture with --arch"
    encoder = _timm_vit(name, size, f"{path}: a ViT of width {wide} and patch {patch}; {advice}")
    from timm.models.vision_transformer import checkpoint_filter_fn

    try:
        resized = checkpoint_filter_fn(_without_heads(weights), encoder.vit)  # type: ignore[arg-type]
    except RuntimeError as error:  # position embeddings that no interpolation makes fit
        raise UserError(f"{path} does not fit {name}; {advice}") from error
    _fill(encoder.vit, resized, name, path)
    return encoder, name


def _without_heads(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in weights.items() if not k.startswith(_HEADS)}


def _fill(vit: nn.Module, weights: Mapping[str, Tensor], name: str, path: str | Path) -> None:
    """Loads `weights` into `vit`; UserError says how they differ from its own."""
    if faults := differences(weights, {k: v.shape for k, v in vit.state_dict().items()}):
        raise UserError(f"{path} does not fit {name}: {faults}. Name another with --arch")
    require_plain(weights, path)
    vit.load_state_dict(weights)
