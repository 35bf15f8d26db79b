"""`torch.hub.load("OWNER/REPO", "encoder", weights="encoder.safetensors")`: a trained encoder, torchvision's ResNet."""

dependencies = ["torch", "torchvision", "safetensors"]


def encoder(weights: str, arch: str | None = None):
    """The ResNet in a weights file (ours, torchvision's, timm's, MoCo/BYOL-style), its `fc` an identity, in eval mode.

    `arch` is found from what the file says, else from its shapes, if it is not given. Raises UserError where the file
    does not fit, or its shapes do not tell its strides.
    """
    from trainer.model.weights import load_encoder

    return load_encoder(weights, arch)[0].eval()
