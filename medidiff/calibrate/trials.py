"""A fine scan, sliced by our own operator and restored as ``reconstruct`` would: what was missed can be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medidiff.calibrate.options import CalibrateOptions
from medidiff.errors import InputError
from medidiff.io import read_volume
from medidiff.volume import Volume

if TYPE_CHECKING:
    import torch

    from medidiff.diffusion.denoiser import Preconditioned
    from medidiff.operators.slices import Profile, SliceOperator
    from medidiff.uncertainty import Seen

# Above this ratio of spacings a scan is no truth to be sliced.
LARGEST_RATIO = 1.2
# Fewer slices than this say nothing about what lies between them.
FEWEST_SLICES = 4


@dataclass(frozen=True, slots=True, eq=False)
class Restored:
    """What became of a scan that was sliced and restored, in model units.

    Args:
        seen: What is known without the truth.
        error: Truth less mean, shape (i, j, k).
        where: Which voxels count.
    """

    seen: Seen
    error: Any
    where: Any


def fine_scan(path: Path) -> Volume:
    """A scan that may be called the truth.

    Raises:
        InputError: 4D, or itself made of thick slices.
    """
    volume = read_volume(path).reoriented()
    spacing = volume.geometry.spacing
    if len(volume.data) != 1 or max(spacing) > LARGEST_RATIO * min(spacing):
        raise InputError(
            f"{path}: a truth is one 3D scan with voxels of equal sides, got {len(volume.data)} frames of "
            f"{' x '.join(f'{step:.3g}' for step in spacing)} mm"
        )
    return volume


def slice_operator(shape: tuple[int, int, int], axis: int, profile: Profile, factor: float) -> SliceOperator:
    """Touching slices of a fine scan.

    Raises:
        InputError: too few slices would be left.
    """
    from medidiff.operators.slices import SliceOperator, SliceProfile

    operator = SliceOperator((1, *shape), axis, SliceProfile(factor, factor, profile))
    if operator.out_shape[axis + 1] < FEWEST_SLICES:
        raise InputError(f"{shape[axis]} voxels leave fewer than {FEWEST_SLICES} slices at x{factor:g}")
    return operator


def restored(model: Preconditioned, volume: Volume, operator: SliceOperator, options: CalibrateOptions) -> Restored:
    """Slice a fine scan, restore it as ``reconstruct`` would, and compare; see ``Restored``."""
    import torch

    from medidiff.data.intensity import IntensityCodec
    from medidiff.metrics.foreground import head_mask
    from medidiff.restoration import Settings, restore

    truth = torch.from_numpy(np.ascontiguousarray(volume.data, dtype=np.float32))[None]
    slices = operator.forward(truth)
    codec = IntensityCodec.fit(slices.numpy(), volume.modality)
    y = codec.encode(slices).to(next(model.parameters()).device)
    settings = Settings(
        samples=options.samples,
        steps=options.steps,
        seed=options.seed,
        lower=float(codec.encode(0.0)) if float(slices.min()) >= 0 else None,
    )
    done = restore(model, operator, y, settings)
    mean, *samples = (_array(x) for x in (done.mean, *done.samples))
    seen = _seen_in(mean, _array(operator.reference(y)), operator, samples)
    where = np.ones(mean.shape, dtype=bool)
    if options.region == "head":
        where = head_mask(seen.baseline, spacing=volume.geometry.spacing)
    return Restored(seen, _array(codec.encode(truth)) - mean, where)


def _seen_in(mean: Any, baseline: Any, operator: SliceOperator, samples: Sequence[Any] = ()) -> Seen:
    """What a result from thick slices says about itself; arrays (i, j, k), any units."""
    from medidiff.uncertainty import Seen

    shape = [1, 1, 1]
    shape[operator.axis] = -1
    known = operator.closeness().numpy().reshape(shape)
    spread = np.std(samples, axis=0, ddof=1) if len(samples) > 1 else None
    return Seen(mean, baseline, known, operator.axis, spread)


def _array(x: torch.Tensor) -> Any:
    return x[0, 0].float().cpu().numpy()
