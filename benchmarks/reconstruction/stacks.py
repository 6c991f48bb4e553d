"""Orthogonal stacks of thick slices joined: each alone, their mean, joint least squares, and medidiff."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.reconstruction import scoring
from benchmarks.rows import Rows
from benchmarks.superresolution.cases import Truth
from medidiff.data.intensity import IntensityCodec
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.diffusion.sampler import posterior_mean
from medidiff.diffusion.tiling import Tiling
from medidiff.geometry import Geometry
from medidiff.operators import SliceOperator, SliceProfile, stack_operator
from medidiff.operators.motion import rigid_matrices
from medidiff.restoration import Settings, restore
from medidiff.restoration.joint import Join
from medidiff.restoration.register import Stack

Array = NDArray[Any]
KEY = ("slices", "stacks", "motion", "method")
BASELINE = "joint least squares"
# Degrees and mm by which the head moved before the second and third stack.
MOTION = {1: (1.5, -2.0, 1.0, 1.2, -0.8, 2.0), 0: (-1.0, 1.5, 2.0, -1.5, 1.0, 0.7)}
ABOUT = (
    "uih-b, T1 1 mm, never trained or tuned on: axial, coronal, then sagittal stacks of touching box slices. Motion: "
    "the head moved by 2 to 4 mm and up to 2 degrees before each later stack, and its gain changed by 10%, untold. "
    "Best single stack: the best of the stacks of the head at rest, each restored alone by the network. Mean: "
    "of their cubic + projection, after registration. Joint least squares: all measurements with a roughness penalty, "
    "tuned on training heads, after the same registration: the baseline."
)


def main(arguments: list[str] | None = None) -> None:
    parser = scoring.parser("stacks", ABOUT)
    parser.add_argument("--factors", nargs="+", type=int, default=[4, 6])
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = Rows(args.out / "stacks.csv", (*KEY, *scoring.SCORES), KEY, resume=args.resume)
    truth, model = scoring.head(args.data, args.crop), scoring.prior(args.model)
    with torch.no_grad():
        for factor in args.factors:
            for count in (2, 3):
                for moves in (False, True):
                    key = {"slices": f"x{factor}", "stacks": str(count), "motion": "yes" if moves else "no"}
                    case = Case(truth, model, factor, count, moves=moves)
                    scoring.fill(rows, key, case.methods(), BASELINE, truth, case.inside)
    text = f"{ABOUT}\n\n{scoring.table(rows.all, KEY[:-1], BASELINE)}\n\n{scoring.losses(rows.all, KEY[:-1])}"
    scoring.bars(rows.all, KEY[:-1], "Stacks joined, uih-b", args.out / "stacks.png")
    scoring.report("stacks", text, args)


class Case:
    """Simulated stacks of a head, and what is made of them."""

    def __init__(self, truth: Truth, model: Preconditioned, factor: int, count: int, *, moves: bool) -> None:
        self.truth, self.model, self.factor = truth, model, factor
        self.codec = IntensityCodec.fit(truth.volume.data)
        self.x = self.codec.encode(truth.x)
        # World millimetres do not matter here, and one voxel is one.
        self.grid = Geometry(np.eye(4), truth.mask.shape)
        stacks = [self._stack(axis, moves=moves) for axis in (2, 1, 0)[:count]]
        self.join = Join.of(stacks, self.grid, [str(n) for n in range(count)], float(self.codec.encode(0.0)))
        # A moved stack does not see the rim; the same voxels are scored for every method.
        rim = np.zeros(truth.mask.shape, bool)
        rim[(slice(6, -6),) * 3] = True
        self.inside = rim

    def _stack(self, axis: int, *, moves: bool) -> Stack:
        size = self.grid.shape[axis]
        grid = self.grid.resampled(axis, size // self.factor, float(self.factor))
        seen, gain = grid, 1.0
        if moves and axis in MOTION:
            motion, gain = np.array([MOTION[axis]]), 1.1 if axis else 0.9
            motion[:, :3] = np.radians(motion[:, :3])
            centre = grid.to_world((np.asarray(grid.shape) - 1) / 2)
            seen = Geometry(np.linalg.inv(rigid_matrices(motion, centre)[0]) @ grid.affine, grid.shape)
        y = stack_operator(self.grid, seen, axis, float(self.factor)).forward(self.x)
        return Stack(gain * y, grid, axis, float(self.factor))

    def methods(self) -> Mapping[str, scoring.Method]:
        return {
            "best single stack, medidiff": self.single,
            "mean of stacks": lambda: self._decoded(self.join.mean()),
            BASELINE: lambda: self._decoded(self.join.classical()),
            "medidiff": self.ours,
        }

    def single(self) -> Array:
        """Each stack of the head at rest, restored alone; the best one."""
        found = []
        for axis in range(3)[-len(self.join.stacks) :]:
            shape = (1, *self.grid.shape)
            operator = SliceOperator(shape, axis, SliceProfile(self.factor, self.factor))  # type: ignore[arg-type]
            mean = restore(self.model, operator, operator.forward(self.x), Settings()).mean
            found.append((float((mean - self.x).square().mean()), mean))
        return self._decoded(min(found, key=lambda pair: pair[0])[1])

    def ours(self) -> Array:
        posterior = self.join.posterior(self.model, Tiling())
        return self._decoded(posterior_mean(posterior, self.x.shape).clamp_min(float(self.codec.encode(0.0))))

    def _decoded(self, x: torch.Tensor) -> Array:
        return np.asarray(self.codec.decode(x)[0, 0].numpy())
