"""Weights on disk: safetensors with everything needed to use them in the header, and nothing that is executed.

A model file carries its network's config, its codec and training record, and the code version as JSON in the
safetensors header. A training state carries the optimiser as well, so that a run killed at any moment goes on
with the same bits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from medidiff import __version__
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.diffusion.network import build_network
from medidiff.errors import CheckpointError, ConfigError
from medidiff.io.atomic import atomic_file
from medidiff.models import read_header

FORMAT = "medidiff-model/1"
GENERATOR_FORMAT = "medidiff-generator/1"
STATE_FORMAT = "medidiff-training-state/1"
# Both are models, so that people will take one for the other.
_OTHER_USE = (
    "{path}: a generator of synthetic volumes, which restores nothing: use it with `medidiff synthesize`",
    "{path}: not a generator of synthetic volumes: `medidiff models` tells which model is one",
)
MAX_MODEL_BYTES = 4 << 30
# A header that names more levels or blocks is not believed.
MAX_LEVELS, MAX_BLOCKS = 8, 16

M = TypeVar("M", bound=nn.Module)
# Header and network options of a file to a model without weights.
Build = Callable[[Mapping[str, str], Mapping[str, Any]], M]


def save_model(
    path: Path, network: Mapping[str, Any], tensors: Mapping[str, Tensor], card: Mapping[str, Any], *, half: bool = True
) -> None:
    """Write a model that ``load_model`` reads.

    Args:
        network: ``{"kind": ..., **options}`` as ``build_network`` takes it.
        tensors: Parameters by name.
        card: Training record: data, licences, cost, validation figures.
        half: Store float16; the rounding is far below the network's own error.
    """
    write_model(path, FORMAT, network, tensors, card, half=half)


def write_model(
    path: Path,
    form: str,
    network: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    card: Mapping[str, Any],
    *,
    half: bool = True,
    more: Mapping[str, str] | None = None,
) -> None:
    """Write a model file of any of our formats; ``more`` are entries of the header that this format has besides."""
    dtype = torch.float16 if half else torch.float32
    header = {"format": form, "network": json.dumps(network), "card": json.dumps(card), "medidiff": __version__}
    _save(path, {name: tensor.detach().to("cpu", dtype) for name, tensor in tensors.items()}, header | dict(more or {}))


def load_model(path: Path, device: torch.device | str = "cpu") -> tuple[Preconditioned, dict[str, Any]]:
    """Read a model in full precision, ready to evaluate.

    Returns:
        The model and its card.
    Raises:
        CheckpointError: not a model file, damaged, or the weights do not fit the network it names.
    """
    return read_model(path, FORMAT, lambda _, options: Preconditioned(build_network(**options)), device)


def read_model(path: Path, form: str, build: Build[M], device: torch.device | str) -> tuple[M, dict[str, Any]]:
    """Read a model file of one of our formats.

    Raises:
        CheckpointError: not such a file, damaged, or the weights do not fit the network it names.
    """
    header, tensors = _load(path, form)
    try:
        options = json.loads(header["network"])
        card = json.loads(header["card"])
        if not isinstance(card, dict):
            raise CheckpointError(f"{path}: its card is no mapping of names to values; the file is damaged")
        _check_fit(header, options, tensors, build)
        model = build(header, options)
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except (ConfigError, KeyError, TypeError, ValueError, RuntimeError, RecursionError) as error:
        kind = type(error).__name__
        raise CheckpointError(f"{path}: the weights do not fit the network that the file names ({kind})") from error
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise CheckpointError(f"{path}: some weights are not finite; the file is damaged")
    return model.to(device).eval().requires_grad_(False), card


def _check_fit(
    header: Mapping[str, str], options: Mapping[str, Any], tensors: Mapping[str, Tensor], build: Build[M]
) -> None:
    """Compare shapes before a weight is allocated: a header may name a network of any size.

    Raises:
        ValueError: the network has other weights than the file.
    """
    if not isinstance(options, dict):
        raise TypeError("the network is no mapping")
    if len(options.get("channels", ())) > MAX_LEVELS or int(options.get("blocks", 1)) > MAX_BLOCKS:
        raise ValueError("deeper than any network of ours")
    with torch.device("meta"):
        wanted = {name: weight.shape for name, weight in build(header, options).state_dict().items()}
    if wanted != {name: tensor.shape for name, tensor in tensors.items()}:
        raise ValueError("other names or shapes")


def save_state(path: Path, groups: Mapping[str, Mapping[str, Tensor]], record: Mapping[str, Any]) -> None:
    """Write a training state: groups of tensors (model, ema, moments) and a JSON record."""
    tensors = {
        f"{group}/{name}": tensor.detach().cpu()
        for group, members in groups.items()
        for name, tensor in members.items()
    }
    _save(path, tensors, {"format": STATE_FORMAT, "record": json.dumps(record), "medidiff": __version__})


def load_state(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read what ``save_state`` wrote.

    Raises:
        CheckpointError: not a training state, or damaged.
    """
    header, tensors = _load(path, STATE_FORMAT)
    groups: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        group, _, name = key.partition("/")
        groups.setdefault(group, {})[name] = tensor
    try:
        return groups, dict(json.loads(header["record"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the training state has no readable record") from error


def _save(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    with atomic_file(path) as temporary:
        write_tensors(temporary, tensors, header)
        _order_header(temporary)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    """Write a safetensors file by way of bytes in memory.

    ``save_file`` keeps a temporary file of its own beside ``path``, which a kill leaves for good, and its errors do not
    say in a number that there is no room.
    """
    from safetensors.torch import save

    path.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=header))


def _order_header(path: Path) -> None:
    """Sort what a file says of itself: safetensors has no order there, and equal weights are to be equal bytes."""
    with path.open("r+b") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
        if len(ordered) == size:  # shorter was padded; longer, which another way to escape might be, stays as it was
            stream.seek(8)
            stream.write(ordered)


def _load(path: Path, wanted: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        if path.stat().st_size > MAX_MODEL_BYTES:
            raise CheckpointError(f"{path}: larger than any model of medidiff ({MAX_MODEL_BYTES >> 30} GiB)")
        read_header(path)  # what it claims is checked before safetensors believes it
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            if header.get("format") != wanted:
                if GENERATOR_FORMAT in (wanted, header.get("format")):
                    raise CheckpointError(_OTHER_USE[wanted == GENERATOR_FORMAT].format(path=path))
                raise CheckpointError(f"{path}: expected {wanted}, found {header.get('format', 'no format')!r}")
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors ({error}); is the file whole?") from error
