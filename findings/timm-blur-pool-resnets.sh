#!/usr/bin/env bash
# What: whether the names and shapes of a ResNet's weights tell which network they belong to.
# Versions: timm 1.0.31, torch 2.11.0 (CPU), torchvision 0.26.0, numpy 2.4.6. Date: 2026-11-29.
# A good guess: a state dict that loads with strict=True, every name and every shape, gives its own network's features.
# Seen: timm's resnetblur18, resnetblur50 and resnetaa50 have exactly the names and shapes of resnet18 and resnet50
# (blur pooling has no stored weights), so strict=True takes them in either direction. The pooled features of one and the
# same random weights then differ by 3 % (resnetblur18, resnetblur50) and 77 % (resnetaa50) of their length.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check timm==1.0.31 torch==2.11.0 torchvision==0.26.0 numpy==2.4.6
cat > "$work/try.py" <<'PY'
import timm
import torch

print("timm", timm.__version__, "torch", torch.__version__)
for other, plain in (("resnetblur18", "resnet18"), ("resnetblur50", "resnet50"), ("resnetaa50", "resnet50")):
    torch.manual_seed(0)
    a, b = (timm.create_model(name, pretrained=False, num_classes=0).eval() for name in (other, plain))
    shapes = [{name: tuple(value.shape) for name, value in model.state_dict().items()} for model in (a, b)]
    assert shapes[0] == shapes[1], "the behaviour has changed: names or shapes differ"
    b.load_state_dict(a.state_dict(), strict=True)
    images = torch.rand(8, 3, 224, 224)
    with torch.no_grad():
        x, y = a(images), b(images)
    away = ((x - y).norm(dim=1) / x.norm(dim=1)).median().item()
    print(f"  {other} into {plain}: {len(shapes[0])} tensors, strict; features differ by {away:.1%} of their length")
    assert away > 0.005, "the behaviour has changed: the features are equal"
PY
"$work/venv/bin/python" "$work/try.py"
