"""A model file with random weights: quick, and wrong everywhere, so that only what holds for any network passes."""

from __future__ import annotations

from pathlib import Path

import torch

from medidiff.diffusion.checkpoint import save_model
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.diffusion.network import build_network

NETWORK = {"kind": "residual_unet", "channels": [8, 8], "blocks": 1}


def write_tiny_model(path: Path, seed: int = 0) -> Path:
    """Write a model whose answer is noise of about the size of a real residual."""
    model = Preconditioned(build_network(**NETWORK))
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: 0.1 * torch.randn(tensor.shape, generator=generator) for name, tensor in model.state_dict().items()
    }
    save_model(path, NETWORK, tensors, {"summary": "random weights, for tests"})
    return path
