"""The models that ship: safetensors files in this folder, each with its card in its header.

Listing them reads headers only, and loads no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medidiff.errors import CheckpointError

FOLDER = Path(__file__).parent
SUFFIX = ".safetensors"
# A header is a few kilobytes; a file may not make us read more before anything is checked.
MAX_HEADER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the header of a model file says.

    Args:
        name: File name without suffix.
        path: The file.
        parameters: Number of weights.
        size: Bytes on disk.
        network: Kind and options of the network.
        card: Training record: data and licences, cost, validation, limits.
        version: Version of medidiff that wrote it.
        header: The header's texts as they are: ``format`` tells a model that restores from one that generates.
    """

    name: str
    path: Path
    parameters: int
    size: int
    network: Mapping[str, Any]
    card: Mapping[str, Any]
    version: str
    header: Mapping[str, str]


def shipped_models(folder: Path = FOLDER) -> list[ModelInfo]:
    """Every model in a folder, by name.

    Raises:
        CheckpointError: a file that is named like a model is none.
    """
    return [read_info(path) for path in sorted(folder.glob(f"*{SUFFIX}"))]


def find_model(name: str | Path) -> Path:
    """The file of a model: the name of one that ships, or a path of one's own.

    Raises:
        CheckpointError: there is neither.
    """
    shipped = FOLDER / f"{name}{SUFFIX}"
    if shipped.parent == FOLDER and shipped.is_file():
        return shipped
    if Path(name).is_file():
        return Path(name)
    names = ", ".join(path.stem for path in sorted(FOLDER.glob(f"*{SUFFIX}"))) or "none"
    raise CheckpointError(f"no model {name}: expected a model file, or the name of one that ships ({names})")


def is_shipped(path: Path) -> bool:
    """Whether a model file is one of those that come with medidiff."""
    return path.parent == FOLDER


def read_info(path: Path) -> ModelInfo:
    """Read the header of a model file; no weight is read.

    Raises:
        CheckpointError: not a model file of medidiff, or damaged.
    """
    try:
        header = json.loads(read_header(path))
        told = header.pop("__metadata__")
        network, card = json.loads(told["network"]), json.loads(told["card"])
        if not (isinstance(network, dict) and isinstance(card, dict)):
            raise TypeError("network and card are mappings")
        return ModelInfo(
            name=path.stem,
            path=path,
            parameters=sum(_product(entry["shape"]) for entry in header.values()),
            size=path.stat().st_size,
            network=network,
            card=card,
            version=str(told["medidiff"]),
            header={str(key): str(text) for key, text in told.items()},
        )
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        # What is in the file stays out of the message: somebody may have given a scan, and a scan has a name in it.
        kind = type(error).__name__
        raise CheckpointError(f"{path}: not a model file of medidiff ({kind} in its header); is it whole?") from error


def read_header(path: Path) -> bytes:
    """The header of a safetensors file, as JSON; what it claims of its own size is checked before it is read.

    Raises:
        CheckpointError: it claims more than the file has, or than any header of ours.
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > min(MAX_HEADER_BYTES, path.stat().st_size):
            raise CheckpointError(f"{path}: not a model file of medidiff: its header claims {length} bytes")
        return stream.read(length)


def _product(shape: list[int]) -> int:
    count = 1
    for side in shape:
        count *= int(side)
    return count
