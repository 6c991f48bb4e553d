"""Lost slices and holes filled in a head never trained on: against interpolation and a membrane."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from benchmarks.reconstruction import scoring
from benchmarks.rows import Rows
from benchmarks.superresolution.cases import Truth
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.operators.mask import harmonic_fill
from medidiff.restoration import Inpaint, Settings
from medidiff.volume import Volume

Array = NDArray[Any]
KEY = ("lost", "method")
BASELINE = "membrane"
LOST = (1, 2, 4, 8)
ABOUT = (
    "uih-b, T1 1 mm, its middle. Slices: 1, 2, 4 or 8 neighbouring axial slices lost at three heights. Holes: three "
    "balls of 6, 9 and 12 voxels' radius. Scored in what was lost, inside the head. Linear, cubic: along the axis, "
    "through the slices that are left. Membrane: every lost voxel the mean of its neighbours, from which medidiff "
    "starts. Data range of the head for PSNR, as everywhere."
)


@dataclass(frozen=True)
class Case:
    """A head with something missing."""

    missing: Array
    truth: Truth
    model: Preconditioned
    slices: bool

    @classmethod
    def lost_slices(cls, truth: Truth, count: int, model: Preconditioned) -> Case:
        missing = np.zeros(truth.mask.shape, bool)
        depth = truth.mask.shape[2]
        for share in (0.25, 0.5, 0.75):
            start = int(share * depth) - count // 2
            missing[:, :, start : start + count] = True
        return cls(missing, truth, model, slices=True)

    @classmethod
    def balls(cls, truth: Truth, model: Preconditioned) -> Case:
        missing = np.zeros(truth.mask.shape, bool)
        index = np.stack(np.meshgrid(*map(np.arange, missing.shape), indexing="ij"), axis=-1)
        for radius, place in ((6, (0.3, 0.4, 0.6)), (9, (0.65, 0.35, 0.4)), (12, (0.5, 0.7, 0.65))):
            centre = np.array(place) * missing.shape
            missing |= ((index - centre) ** 2).sum(-1) <= radius**2
        return cls(missing, truth, model, slices=False)

    @property
    def known(self) -> Array:
        return np.where(self.missing, 0, self.truth.volume.data[0]).astype(np.float32)

    def methods(self) -> Mapping[str, scoring.Method]:
        found: dict[str, scoring.Method] = {BASELINE: self.membrane, "medidiff": self.ours}
        if self.slices:
            found |= {"linear": lambda: self.along(1), "cubic": lambda: self.along(3)}
        return found

    def membrane(self) -> Array:
        x = torch.from_numpy(self.known)[None, None]
        return np.asarray(harmonic_fill(x, torch.from_numpy(~self.missing)[None])[0, 0].numpy())

    def along(self, degree: int) -> Array:
        """Interpolation along the slice axis through the slices that are left."""
        lost = self.missing[0, 0]
        place, x = np.arange(len(lost)), self.known
        filled = x.copy()
        if degree == 1:
            right = np.clip(np.searchsorted(place[~lost], place[lost]), 1, (~lost).sum() - 1)
            low, high = place[~lost][right - 1], place[~lost][right]
            share = (place[lost] - low) / (high - low)
            filled[..., lost] = (1 - share) * x[..., low] + share * x[..., high]
        else:
            filled[..., lost] = CubicSpline(place[~lost], x[..., ~lost], axis=-1)(place[lost])
        return np.asarray(filled)

    def ours(self) -> Array:
        volume = Volume(self.known[None], self.truth.volume.geometry, self.truth.volume.modality)
        job = Inpaint(self.missing)
        return np.asarray(job.run(volume, self.model, Settings(guidance=job.guidance)).mean[0])


def main(arguments: list[str] | None = None) -> None:
    parser = scoring.parser("inpainting", ABOUT)
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = Rows(args.out / "inpainting.csv", (*KEY, *scoring.SCORES), KEY, resume=args.resume)
    truth, model = scoring.head(args.data, args.crop or 96), scoring.prior(args.model)
    for count in LOST:
        case = Case.lost_slices(truth, count, model)
        scoring.fill(rows, {"lost": f"{count} slices"}, case.methods(), BASELINE, truth, case.missing)
    case = Case.balls(truth, model)
    scoring.fill(rows, {"lost": "3 balls"}, case.methods(), BASELINE, truth, case.missing)
    scoring.bars(rows.all, KEY[:-1], "Lost slices and holes filled, uih-b", args.out / "inpainting.png")
    table = scoring.table(rows.all, KEY[:-1], BASELINE)
    scoring.report("inpainting", f"{ABOUT}\n\n{table}\n\n{scoring.losses(rows.all, KEY[:-1])}", args)
