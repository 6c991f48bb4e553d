"""The learned methods, by the library's own parts: what is scored is what a user gets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import yaml
from torch import Tensor

from benchmarks.superresolution.rivals import Method
from medidiff.data.intensity import IntensityCodec
from medidiff.diffusion.checkpoint import load_model
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.diffusion.sampler import posterior_mean
from medidiff.diffusion.tiling import TiledDenoiser
from medidiff.guidance import Posterior, condition_from, projection
from medidiff.models import find_model, read_info, shipped_models
from medidiff.operators.likelihood import Likelihood
from medidiff.operators.slices import SliceOperator

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def methods(model: str | None, regression: str | None) -> Iterator[tuple[str, Method, str]]:
    """Name, method and version (hash of the weights) of each learned method that can be had.

    Args:
        model: Name or file; None takes the one that ships, if one does.
        regression: Name or file of the same network trained as plain regression.
    """
    chosen = _path(model)
    if chosen is None:
        print("no model ships yet, and none was given: classical methods only")
    else:
        yield "medidiff", mean(load_model(chosen)[0]), version(chosen)
    if regression is not None:
        path = find_model(regression)
        yield "plain regression", mean(load_model(path)[0]), version(path)


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
    """The posterior mean in one evaluation, on the whole volume, agreeing with the slices."""

    def restore(operator: SliceOperator, y: Tensor) -> Tensor:
        codec = IntensityCodec.fit(y.numpy())
        measured = codec.encode(y)
        denoiser = TiledDenoiser(prior, condition_from(operator, measured))
        posterior = Posterior(denoiser, Likelihood(operator, measured), projection)
        restored: Tensor = codec.decode(posterior_mean(posterior, (1, *operator.in_shape)))
        return restored

    return restore


def _path(model: str | None) -> Path | None:
    shipped = shipped_models()
    if model is None:
        return shipped[0].path if shipped else None
    return find_model(model)
