"""Results whose error is known, for tests."""

from __future__ import annotations

import numpy as np

from medidiff.uncertainty import Calibration, ErrorScale, Seen, Stratum
from medidiff.uncertainty.clues import CLUES

SHA = "a" * 64


def seen(seed: int = 0, shape: tuple[int, int, int] = (18, 20, 22), axis: int = 2, *, spread: bool = False) -> Seen:
    """Smooth anatomy, and an answer without a network that is smoother still."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    mean = gaussian_filter(rng.normal(size=shape), 1.0).astype(np.float32)
    known = np.abs(np.linspace(-1, 1, shape[axis])).reshape([-1 if a == axis else 1 for a in range(3)])
    drawn = np.abs(rng.normal(size=shape)).astype(np.float32) if spread else None
    return Seen(mean, gaussian_filter(mean, 1.0), known, axis, drawn)


def scale(bias: float = 0.0) -> ErrorScale:
    return ErrorScale({name: 0.1 * (index + 1) for index, name in enumerate(CLUES)}, bias)


def calibration(**changes: object) -> Calibration:
    """Box slices x2 and x4, Gaussian x4."""
    strata = (
        Stratum("box", 2.0, scale(), 1.0, 0.08, 0.03),
        Stratum("box", 4.0, scale(0.3), 1.5, 0.08, 0.03),
        Stratum("gaussian", 4.0, scale(0.2), 1.2, 0.08, 0.03),
    )
    chosen: dict[str, object] = {
        "model": "tiny", "model_sha256": SHA, "level": 0.1, "samples": 0, "steps": None, "modality": "MR",
        "spacing_mm": 1.0, "region": "whole", "scale_people": 3, "people": 12, "about": "tests", "strata": strata,
    }  # fmt: skip
    return Calibration(**(chosen | changes))  # type: ignore[arg-type]
