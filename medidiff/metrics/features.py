"""What a set of volumes looks like to a network: one vector of features a volume, from weights that are named by hash.

    encoder = load_encoder("features-t1")
    features = encoder.embed(images)            # (n, 1, i, j, k) in model units -> (n, d)

Distances between sets are distances between such vectors, so a figure means nothing without the encoder that it was
taken with: ``Encoder.sha256`` goes into every report. Ours is a small 3D ResNet of MONAI, trained here
(``medidiff.training.encoder``). Weights of others (Med3D, RadImageNet) are named in a YAML file of ``kind: features``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from medidiff.config import Config, load_config
from medidiff.errors import CheckpointError, InputError
from medidiff.io.source import file_sha256
from medidiff.models import find_model, read_info

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SHIPPED = "features-t1"
FORMAT = "medidiff-encoder/1"
MOST_BYTES = 2 << 30
_BATCH = 8
# The names under which our files hold the mean and spread of the features of the people trained on.
CENTRE, SPREAD = "standard.centre", "standard.spread"


class ResNetOptions(Config):
    """A ResNet of MONAI, by the names of ``monai.networks.nets.ResNet``; the limits keep a file from asking for more.

    Source: He et al. (2016), Deep Residual Learning for Image Recognition; Hara et al. (2018) for its form in 3D.
    """

    kind: Literal["resnet"] = "resnet"
    block: Literal["basic", "bottleneck"] = "basic"
    layers: tuple[int, int, int, int] = (1, 1, 1, 1)
    block_inplanes: tuple[int, int, int, int] = (32, 48, 64, 96)
    spatial_dims: Literal[2, 3] = 3
    n_input_channels: int = Field(1, ge=1, le=3)
    conv1_t_size: int = Field(3, ge=1, le=15)
    conv1_t_stride: int = Field(2, ge=1, le=4)
    no_max_pool: bool = True
    shortcut_type: Literal["A", "B"] = "B"
    bias_downsample: bool = False

    def build(self) -> torch.nn.Module:
        """The network, with weights at random: images to one vector each.

        Raises:
            CheckpointError: deeper or wider than any network of this kind.
        """
        from monai.networks.nets.resnet import ResNet

        if max(self.layers) > 64 or max(self.block_inplanes) > 2048 or min(*self.layers, *self.block_inplanes) < 1:
            raise CheckpointError(f"no network has {self.layers} blocks of {self.block_inplanes} channels")
        options = self.model_dump(exclude={"kind"}) | {"layers": list(self.layers)}
        return ResNet(**(options | {"block_inplanes": list(self.block_inplanes)}), feed_forward=False)


class FeatureConfig(Config):
    """Weights of others, in safetensors, and how they want to be fed.

    Args:
        weights: The file; beside the YAML if the path is relative.
        network: Which ResNet they belong to. One of ``spatial_dims: 2`` sees every plane along k; its features are
            averaged over the planes.
        rename: Patterns in the names of the weights and what stands there in MONAI's ResNet, e.g. ``"^module\\.": ""``.
        offset, scale: The network is given ``(image - offset) / scale`` of model units.
        source: Whose weights these are, and under which licence.
    """

    kind: Literal["features"] = "features"
    weights: Path
    network: ResNetOptions
    rename: dict[str, str] = Field(default_factory=dict)
    offset: float = 0.0
    scale: float = Field(1.0, gt=0)
    source: str = Field(min_length=1, max_length=400)


@dataclass(frozen=True, slots=True)
class Encoder:
    """Images in, features out.

    Args:
        name: Of the model that ships, or of the file.
        sha256: Of the file with the weights, and of the YAML file where there is one.
        dimensions: Of a feature vector.
        source: Whose weights these are.
    """

    name: str
    sha256: str
    dimensions: int
    source: str
    _network: torch.nn.Module
    _centre: NDArray[np.float64]
    _spread: NDArray[np.float64]
    _planar: bool = False
    _channels: int = 1
    _offset: float = 0.0
    _scale: float = 1.0

    def embed(self, images: NDArray[Any]) -> NDArray[np.float64]:
        """Features of volumes; the same volume gives the same features whatever it is batched with.

        Args:
            images: Model units, shape (n, 1, i, j, k).
        Returns:
            Shape (n, d).
        Raises:
            InputError: another shape, or values that are not finite.
        """
        import torch

        if images.ndim != 5 or images.shape[1] != 1:
            raise InputError(f"features are taken of volumes (n, 1, i, j, k), got {images.shape}")
        found = []
        device = next(self._network.parameters()).device
        with torch.no_grad():
            for start in range(0, len(images), _BATCH):
                some = np.ascontiguousarray(images[start : start + _BATCH], dtype=np.float32)
                if not np.isfinite(some).all():
                    raise InputError("features need finite values, got NaN or infinity")
                batch = (torch.from_numpy(some).to(device) - self._offset) / self._scale
                # One at a time through the network: sums are taken in another order in a batch of another size.
                found += [self._features(one[None]).double().cpu().numpy() for one in batch]
        features = np.concatenate(found) if found else np.empty((0, self.dimensions))
        return np.asarray((features - self._centre) / self._spread, dtype=np.float64)

    def _features(self, volume: Tensor) -> Tensor:
        if not self._planar:
            return self._network(volume.expand(-1, self._channels, -1, -1, -1))  # type: ignore[no-any-return]
        planes = volume[0].permute(3, 0, 1, 2).expand(-1, self._channels, -1, -1)
        return self._network(planes).mean(dim=0, keepdim=True)  # type: ignore[no-any-return]


def load_encoder(name: str | Path = SHIPPED, device: torch.device | str = "cpu") -> Encoder:
    """An encoder by the name of one that ships, a file of ours, or a YAML file of ``kind: features``.

    Raises:
        CheckpointError: there is no such file, or the weights do not fit the network that they name.
        ConfigError: the YAML file does not fit.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return _load_foreign(path, device)
    path = find_model(name)
    info = read_info(path)
    if info.header.get("format") != FORMAT:
        raise CheckpointError(f"{path}: no encoder: expected {FORMAT}, found {str(info.header.get('format'))[:40]!r}")
    options = _options(path, info.network)
    tensors = _tensors(path)
    try:
        centre, spread = (np.asarray(tensors.pop(key), dtype=np.float64) for key in (CENTRE, SPREAD))
    except KeyError:
        raise CheckpointError(f"{path}: no encoder: it does not hold how features are standardised") from None
    network, dimensions = _fitted(path, options, tensors)
    if centre.shape != (dimensions,) or spread.shape != (dimensions,) or not (spread > 0).all():
        raise CheckpointError(f"{path}: its standardisation does not fit its features")
    source = str(info.card.get("summary", "trained by medidiff"))
    return Encoder(path.stem, _digest(path), dimensions, source, network.to(device), centre, spread)


def _load_foreign(path: Path, device: torch.device | str) -> Encoder:
    config = load_config(path, FeatureConfig)
    weights = path.parent / config.weights
    tensors = {_renamed(name, config.rename): tensor for name, tensor in _tensors(weights).items()}
    network, dimensions = _fitted(weights, config.network, tensors)
    return Encoder(
        weights.stem,
        hashlib.sha256((_digest(path) + _digest(weights)).encode()).hexdigest(),
        dimensions,
        config.source,
        network.to(device),
        np.zeros(dimensions),
        np.ones(dimensions),
        config.network.spatial_dims == 2,
        config.network.n_input_channels,
        config.offset,
        config.scale,
    )


def _renamed(name: str, rename: Mapping[str, str]) -> str:
    for pattern, text in rename.items():
        name = re.sub(pattern, text, name)
    return name


def _options(path: Path, network: Mapping[str, Any]) -> ResNetOptions:
    try:
        return ResNetOptions.model_validate(network)
    except ValueError as error:
        raise CheckpointError(f"{path}: names a network that there is not") from error


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.stat().st_size > MOST_BYTES:
            raise CheckpointError(f"{path}: larger than any encoder ({MOST_BYTES >> 30} GiB)")
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors; is the file whole?") from error


def _fitted(path: Path, options: ResNetOptions, tensors: Mapping[str, Tensor]) -> tuple[torch.nn.Module, int]:
    """The network with its weights, ready to evaluate, and the length of its features.

    A classifier's last layer (``fc``) is left out, and so are counters that only training needs.
    """
    import torch

    network = options.build()
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items() if not _is_counter(name)}
    given = {
        name: tensor.float() for name, tensor in tensors.items() if not name.startswith("fc.") and not _is_counter(name)
    }
    if wanted != {name: tensor.shape for name, tensor in given.items()}:
        odd = sorted(set(wanted) ^ set(given))[:3] or ["other shapes"]
        raise CheckpointError(
            f"{path}: the weights do not fit the network: {', '.join(odd)}; see `rename` and `network`"
        )
    if not all(bool(torch.isfinite(tensor).all()) for tensor in given.values()):
        raise CheckpointError(f"{path}: some weights are not finite; the file is damaged")
    network.load_state_dict(given, strict=False)
    expansion = 4 if options.block == "bottleneck" else 1
    return network.eval().requires_grad_(False), options.block_inplanes[3] * expansion


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _digest(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
