"""The learned methods, by the library's own parts: what is scored is what a user gets."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import yaml
from torch import Tensor

from benchmarks.superresolution.rivals import Method
from medidiff.data.intensity import IntensityCodec
from medidiff.diffusion.checkpoint import load_model
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.models import find_model, read_info, shipped_models
from medidiff.operators.slices import SliceOperator
from medidiff.restoration import Settings, restore

SEED = 0
CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def methods(
    model: str | None, regression: str | None, *, samples: int = 0, steps: int = 8, device: str = "cpu"
) -> Iterator[tuple[str, Method, str]]:
    """Name, method and version (hash of the weights) of each learned method that can be had.

    Args:
        model: Name or file; None takes the one that ships, if one does.
        regression: Name or file of the same network trained as plain regression.
        samples: How many posterior samples to average; 0 leaves samples out.
        steps: Network evaluations a sample.
        device: Where the networks run.
    """
    chosen = _path(model)
    if chosen is None:
        print("no model ships yet, and none was given: classical methods only")
    else:
        prior, name = load_model(chosen, device)[0], version(chosen)
        yield "medidiff", mean(prior), name
        if samples:
            yield f"medidiff, one sample of {steps} steps", sampled(prior, 1, steps), name
        if samples > 1:
            yield f"medidiff, mean of {samples} samples", sampled(prior, samples, steps), name
    if regression is not None:
        path = find_model(regression)
        yield "plain regression", mean(load_model(path, device)[0]), version(path)


def training_files(model: str | None) -> list[str]:
    """Globs of what a model was trained on, from the config of its name; empty where there is none."""
    path = _path(model)
    config = CONFIGS / f"{read_info(path).card.get('name', '')}.yaml" if path else None
    if config is None or not config.is_file():
        return []
    return [source["files"] for source in yaml.safe_load(config.read_text(encoding="utf-8"))["data"]["train"]]


def version(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def mean(prior: Preconditioned) -> Method:
    """The posterior mean in one evaluation: what ``medidiff reconstruct`` gives by default."""

    def method(operator: SliceOperator, y: Tensor) -> Tensor:
        return _restore(prior, operator, y, Settings)[0]

    return method


def sampled(prior: Preconditioned, count: int, steps: int) -> Method:
    """The mean of posterior samples; one sample is the least faithful and the most natural to the eye."""

    def method(operator: SliceOperator, y: Tensor) -> Tensor:
        settings = partial(Settings, samples=count, steps=steps, seed=SEED)
        return torch.stack(_restore(prior, operator, y, settings)[1:]).mean(dim=0)

    return method


def _restore(
    prior: Preconditioned, operator: SliceOperator, y: Tensor, settings: Callable[..., Settings]
) -> list[Tensor]:
    """Mean and samples, in the units and on the device of ``y``."""
    codec = IntensityCodec.fit(y.cpu().numpy())
    lower = float(codec.encode(0.0)) if float(y.min()) >= 0 else None
    device = next(prior.parameters()).device
    done = restore(prior, operator, codec.encode(y).to(device), settings(lower=lower))
    return [codec.decode(x.float()).to(y) for x in (done.mean, *done.samples)]


def _path(model: str | None) -> Path | None:
    shipped = shipped_models()
    if model is None:
        return shipped[0].path if shipped else None
    return find_model(model)
