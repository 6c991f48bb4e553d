"""A model as a MONAI bundle: a folder with weights, metadata, a config that runs it, and papers.

The weights stay safetensors, so the spec's ``model.pt``, a pickle, is not there; the config loads them through
``medidiff.export.bundled``. The config runs the same use case as the command line, so the results are the same bits.

Source: the MONAI bundle specification, docs.monai.io/en/stable/mb_specification.html.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from medidiff import __version__
from medidiff.errors import CheckpointError, OutputError
from medidiff.models import ModelInfo, find_model, read_info

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
RESTORER, GENERATOR = "medidiff-model/1", "medidiff-generator/1"
# What the network is told in `verify_net_in_out` and in configs of one's own; `reconstruct` finds it out by itself.
SLICES, FEW_VIEWS = {"factor": 4.0}, {"sparse_views": 0.5}


def write_bundle(model: str | Path, output: Path) -> Path:
    """Write the bundle of a model; the folder appears whole or not at all.

    Args:
        model: The name of one that ships, or a file: one that restores, or one that generates.
        output: The folder to make.
    Returns:
        ``output``.
    Raises:
        CheckpointError: there is no such model, or MONAI has no use for it.
        OutputError: ``output`` exists, or cannot be made.
    """
    path = find_model(model)
    info = read_info(path)
    if _format(info) not in (RESTORER, GENERATOR):
        raise CheckpointError(f"{path}: neither restores nor generates scans: a bundle of it would have nothing to run")
    if output.exists():
        raise OutputError(f"cannot write {output}: it exists; name a folder that does not")
    staging = output.parent / f".{output.name[:100]}.medidiff-bundle-{secrets.token_hex(8)}"
    try:
        _fill(staging, info)
        staging.rename(output)
    except OSError as error:
        raise OutputError(f"cannot write {output}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return output


def _fill(folder: Path, info: ModelInfo) -> None:
    for name in ("configs", "models", "docs"):
        (folder / name).mkdir(parents=True)
    shutil.copyfile(info.path, folder / "models" / info.path.name)
    calibration = info.path.with_suffix(".calibration.json")
    if calibration.is_file():  # `reconstruct` looks for it beside the model
        shutil.copyfile(calibration, folder / "models" / calibration.name)
    texts = {
        "configs/metadata.json": _json(metadata(info)),
        "configs/inference.json": _json(inference(info)),
        "docs/README.md": _readme(info),
        "docs/license.txt": _licence(info),
        "LICENSE": _licence(info),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def metadata(info: ModelInfo) -> dict[str, Any]:
    """What ``configs/metadata.json`` says: the keys of MONAI's schema, and the model's whole card."""
    card = info.card
    summary = str(card.get("summary", f"{info.name}, a model of medidiff"))
    return {
        "schema": SCHEMA,
        "version": info.version,
        "changelog": {info.version: f"exported by medidiff {__version__}"},
        "monai_version": _version("monai"),
        "pytorch_version": _version("torch"),
        "numpy_version": _version("numpy"),
        "required_packages_version": {"medidiff": __version__, "nibabel": _version("nibabel")},
        "supported_apps": {},
        "name": info.name,
        "task": summary,
        "description": " ".join(str(card[key]) for key in ("summary", "limits", "not_for") if key in card) or summary,
        "authors": str(card.get("authors", "medidiff maintainers")),
        "copyright": str(card.get("copyright", "see LICENSE")),
        "data_source": str(card.get("data", "see medidiff_card")),
        "intended_use": str(card.get("intended_use", "Research. Not a medical device.")),
        "network_data_format": _formats(info),
        "medidiff_card": dict(card),
    }


def inference(info: ModelInfo) -> dict[str, Any]:
    """What ``configs/inference.json`` says: the use case for every item of the data, and the network by itself."""
    generates = _format(info) == GENERATOR
    common: dict[str, Any] = {
        "imports": ["$from pathlib import Path", "$import torch"],
        "bundle_root": ".",
        "device": "$'cuda' if torch.cuda.is_available() else 'cpu'",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/eval'",
        "model": f"$@bundle_root + '/models/{info.path.name}'",
        "network_def": {"_target_": "medidiff.export.bundled.OneLook", "model": "@model", "task": _task(info)},
        "inferer": {"_target_": "monai.inferers.SimpleInferer"},
        "dataset": {"_target_": "monai.data.Dataset", "data": "@datalist"},
        "evaluator": {"_target_": "medidiff.export.bundled.Engine", "items": "@dataset", "call": "@call"},
        "run": ["$Path(@output_dir).mkdir(parents=True, exist_ok=True)", "$@evaluator.run()"],
    }
    if generates:
        return common | {
            "imports": [*common["imports"], "$from medidiff.synthesize import synthesize"],
            "network_def": {"_target_": "medidiff.export.bundled.DenoiserAt", "model": "@model", "sigma": 1.0},
            "count": 1,
            "seed": 0,
            "datalist": ["synthetic"],
            "options": {
                "_target_": "medidiff.synthesize.SynthesizeOptions",
                "model": "@model",
                "count": "@count",
                "seed": "@seed",
                "device": "@device",
            },
            "call": "$lambda name: synthesize(Path(@output_dir) / name, @options)",
        }
    return common | {
        "imports": [
            *common["imports"],
            "$from medidiff.io.places import default_output",
            "$from medidiff.reconstruct import reconstruct",
        ],
        "datalist": "$sorted(str(p) for p in Path(@dataset_dir).iterdir() if not p.name.startswith('.'))",
        "seed": 0,
        "options": {
            "_target_": "medidiff.reconstruct.ReconstructOptions",
            "model": "@model",
            "device": "@device",
            "seed": "@seed",
        },
        "call": "$lambda scan: reconstruct(Path(scan), Path(@output_dir) / default_output(Path(scan)).name, @options)",
    }


def _format(info: ModelInfo) -> str:
    return info.header.get("format", "")


def _task(info: ModelInfo) -> dict[str, float]:
    return FEW_VIEWS if info.network.get("planar") else SLICES


def _formats(info: ModelInfo) -> dict[str, Any]:
    """The tensors of the network in ``inference.json``."""

    def tensor(
        channels: Mapping[int, str], shape: list[int] | list[str], modality: str, value_range: list[float]
    ) -> dict[str, Any]:
        return {
            "type": "image",
            "format": "magnitude",
            "modality": modality,
            "num_channels": len(channels),
            "spatial_shape": shape,
            "dtype": "float32",
            "value_range": value_range,
            "is_patch_data": False,
            "channel_def": {str(index): text for index, text in channels.items()},
        }

    if _format(info) == GENERATOR:
        spec = json.loads(info.header["generator"])
        names = ["image, standardised", *(f"distance to {label['name']}, standardised" for label in spec["labels"])]
        channels, shape = dict(enumerate(names)), list(spec["shape"])
        noisy = {index: f"{name}, with noise" for index, name in channels.items()}
        return {
            "inputs": {"image": tensor(noisy, shape, spec["modality"], [])},
            "outputs": {"pred": tensor(channels, shape, spec["modality"], [])},
        }
    # Only what reconstructs CT works plane by plane.
    modality = "CT" if info.network.get("planar") else "MR"
    sides = [f"{side}*n" if side > 1 else "*" for side in _multiple(info.network)]
    given = {0: "classical reconstruction, model units", 1: "how directly each voxel was measured, 0 to 1"}
    return {
        "inputs": {"image": tensor(given, sides, modality, [0.0, 1.0])},
        "outputs": {"pred": tensor({0: "posterior mean, model units"}, sides, modality, [0.0, 1.0])},
    }


def _multiple(network: Mapping[str, Any]) -> tuple[int, int, int]:
    """What the axes must be divisible by: the Haar split, and a halving at each level."""
    import torch

    from medidiff.diffusion.network import build_network

    with torch.device("meta"):
        i, j, k = build_network(**network).multiple
    return i, j, k


def _readme(info: ModelInfo) -> str:
    config = "--config_file configs/inference.json --meta_file configs/metadata.json"
    restores = (
        "Each scan of `dataset_dir`, or of `datalist`, is restored into `output_dir`, as by `medidiff reconstruct`."
    )
    generates = "`count` synthetic volumes appear in `output_dir`, as from `medidiff synthesize`."
    what = generates if _format(info) == GENERATOR else restores
    check = f"python -m monai.bundle verify_net_in_out --net_id network_def {config} --device cpu --n 4"
    lines = [f"# {info.name}", "", str(info.card.get("summary", "")), "", "## Use", ""]
    lines += [f"Needs `pip install medidiff=={__version__}`. In this folder:", ""]
    lines += [f"    python -m monai.bundle run {config} --dataset_dir SCANS --output_dir RESULTS", ""]
    lines += [what, "", "To check the network:", "", f"    {check}", ""]
    lines += ["The weights are safetensors: no file here is a pickle.", "", "## Card", ""]
    for key, value in info.card.items():
        lines.append(f"- **{key}**: {value if isinstance(value, str) else json.dumps(value)}")
    return "\n".join(lines) + "\n"


def _licence(info: ModelInfo) -> str:
    stated = info.card.get("licences") or info.card.get("licence")
    return f"{stated or 'The model card names no licence: ask whoever trained the model before sharing it.'}\n"


def _version(package: str) -> str:
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return "0"


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
