"""Where networks run."""

from __future__ import annotations

import torch

from medidiff.errors import ConfigError


def choose_device(name: str | None) -> torch.device:
    """The device of that name; by default CUDA where there is one.

    Raises:
        ConfigError: this machine has no such device.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    try:
        device = torch.device(name or ("cuda" if count else "cpu"))
    except RuntimeError:
        raise ConfigError(f"there is no kind of device {name}; use cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {name}: expected cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(f"there is no device {name}: torch sees {count} CUDA devices here; use --device cpu")
    return device
