"""Under-sampled k-space: zero-filled, CG-SENSE, wavelets and total variation by sigpy and BART, and medidiff."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity
from torch import Tensor

from benchmarks.reconstruction import scoring
from benchmarks.rows import Rows
from benchmarks.superresolution.cases import GROUPS, TUNING, Truth
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.metrics import gain_interval, psnr_interval
from medidiff.operators import CartesianKSpace
from medidiff.operators.base import conjugate_gradients
from medidiff.operators.sampling import poisson_mask, random_mask, uniform_mask
from medidiff.restoration import Settings
from medidiff.restoration.kspace import restore_kspace, strong_classical
from medidiff.training.kspace_simulation import coil_maps, smooth_phase

Array = NDArray[Any]
Method = Callable[[], Tensor]
KEY = ("case", "method")
BASELINE = "best rival"
# Complex noise of each coil, root mean square, over the bright end of the head: with 8 coils and every sample taken an
# image with 0.7% noise in it.
NOISE = 0.01
COILS = 8
# Where the slabs lie, as a share of the head from bottom to top.
PLACES = (0.5, 0.7)
ABOUT = (
    "Simulated: axial planes of uih-b (T1 1 mm, never trained or tuned on) with a smooth phase, smooth coils around "
    "the head that every method knows, and 1% complex noise a coil. Lines are left out from left to right, equispaced "
    "or at random, with 8% reference lines (4% for R = 8); Poisson: two phase encodes of a 3D acquisition. Net: "
    "samples wanted over samples taken. W: wavelets, T: total variation; their weights and the damping of CG-SENSE "
    "were tuned for each case on a training head (--tune), and gains are over the best of them. medidiff N: after N "
    "evaluations of the network; 0: our own wavelets, without it. Scored inside the head on magnitudes; intervals over "
    "blocks of 24 voxels of one person."
)


@dataclass(frozen=True, slots=True)
class Case:
    """An acquisition: its mask, its coils, and the tuned weights of the rivals."""

    name: str
    mask: Callable[[tuple[int, int]], Array]
    coils: int
    weights: Mapping[str, float]


def _lines(kind: str, acceleration: int) -> Callable[[tuple[int, int]], Array]:
    centre = 0.08 if acceleration == 4 else 0.04
    if kind == "random":
        return lambda plane: random_mask(plane, acceleration, seed=0, axis=0, centre=centre)
    return lambda plane: uniform_mask(plane, acceleration, axis=0, centre=centre)


def _weights(cg: float, sigpy_w: float, sigpy_t: float, bart_w: float, bart_t: float) -> dict[str, float]:
    return {"CG-SENSE": cg, "sigpy W": sigpy_w, "sigpy T": sigpy_t, "BART W": bart_w, "BART T": bart_t}


CASES = (
    Case("8 coils, equispaced R4", _lines("equispaced", 4), COILS, _weights(0.01, 0.0008, 0.001, 0.0015, 0.0015)),
    Case("8 coils, equispaced R8", _lines("equispaced", 8), COILS, _weights(0.003, 0.0003, 0.0005, 0.0012, 0.0012)),
    Case("1 coil, random R4", _lines("random", 4), 1, _weights(0.003, 0.0003, 0.005, 0.0025, 0.01)),
    Case("8 coils, random R4", _lines("random", 4), COILS, _weights(0.01, 0.0006, 0.0025, 0.0012, 0.0015)),
    Case("1 coil, random R8", _lines("random", 8), 1, _weights(0.003, 0.0003, 0.0025, 0.005, 0.01)),
    Case(
        "8 coils, Poisson R4", lambda plane: poisson_mask(plane, 4, seed=0), COILS,
        _weights(0.01, 0.0025, 0.0006, 0.004, 0.002),
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Slab:
    """Neighbouring planes of a head, measured; the middle ones are scored.

    Args:
        truth: Magnitudes with a bright end of 1, shape (i, j, scored planes).
        mask: Head, same shape.
        operator: Of all planes.
        y: Samples, model units.
        scored: The planes that are scored.
    """

    truth: Array
    mask: Array
    operator: CartesianKSpace
    y: Tensor
    scored: slice

    @classmethod
    def of(cls, head: Truth, case: Case, place: float, planes: int, scored: int) -> Slab:
        """Simulate an acquisition, always the same for the same head, case and place."""
        filled = np.flatnonzero(head.mask.any(axis=(0, 1)))
        first = int(filled[0] + place * (filled[-1] - filled[0])) - planes // 2
        box = slice(first, first + planes)
        # BART centres its transform for sides that are multiples of 4, or nearly so; with odd ones it is beside itself.
        i, j = (n // 4 * 4 for n in head.mask.shape[:2])
        image = torch.from_numpy(np.ascontiguousarray(head.volume.data[:, :i, :j, box]))[None] / head.data_range
        plane = (image.shape[2], image.shape[3])
        rng = np.random.default_rng(first)
        maps = None if case.coils == 1 else coil_maps(plane, case.coils, rng)[..., None]
        phase = torch.exp(1j * smooth_phase(plane, rng))[..., None]
        operator = CartesianKSpace((1, *plane, planes), torch.from_numpy(case.mask(plane)), maps)
        y = operator.forward(image * phase)
        white = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(first))
        # The mask, not the value, says what was taken.
        y = y + NOISE * white * operator.taken
        middle = slice((planes - scored) // 2, (planes - scored) // 2 + scored)
        truth = image[0, 0, ..., middle].numpy()
        return cls(truth, head.mask[:i, :j, box][..., middle], operator, y, middle)

    @property
    def maps(self) -> Tensor:
        """Coil maps as the libraries take them, shape (coils, i, j)."""
        maps = self.operator.maps
        return torch.ones(1, *self.truth.shape[:2], dtype=torch.complex64) if maps is None else maps[..., 0]

    def by_plane(self, solve: Callable[[Array, Array], Array]) -> Array:
        """A plane-wise solver of (k-space, maps), both (coils, i, j), on the scored planes; magnitudes."""
        maps = self.maps.numpy()
        planes = self.y[0, ..., self.scored].movedim(-1, 0).numpy()
        return np.stack([np.abs(solve(np.ascontiguousarray(plane), maps)) for plane in planes], axis=-1)

    def part(self, x: Tensor) -> Array:
        """Magnitudes of the scored planes."""
        return np.asarray(x[0, 0, ..., self.scored].abs().numpy())


def bart(kind: str, weight: float, steps: int) -> Callable[[Array, Array], Array]:
    """BART's ``pics`` with wavelets (W, by FISTA) or total variation (T, by ADMM), its own scaling undone (-S)."""

    def solve(samples: Array, maps: Array) -> Array:
        with tempfile.TemporaryDirectory() as folder:
            for name, array in (("y", samples), ("maps", maps)):
                _write_cfl(Path(folder, name), np.moveaxis(array, 0, -1)[:, :, None, :])
            command = ["bart", "pics", "-S", "-i", str(steps), "-R", f"{kind}:7:0:{weight}", "y", "maps", "x"]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            subprocess.run(command, cwd=folder, check=True, capture_output=True, env=environment)
            return np.fromfile(Path(folder, "x.cfl"), np.complex64).reshape(samples.shape[1:], order="F")

    return solve


def _write_cfl(path: Path, array: Array) -> None:
    sizes = " ".join(str(n) for n in (*array.shape, *(1,) * (16 - array.ndim)))
    path.with_suffix(".hdr").write_text(f"# Dimensions\n{sizes}\n", encoding="ascii")
    array.astype(np.complex64).ravel(order="F").tofile(path.with_suffix(".cfl"))


def sigpy(kind: str, weight: float, steps: int) -> Callable[[Array, Array], Array]:
    """sigpy's L1WaveletRecon or TotalVariationRecon."""

    def solve(samples: Array, maps: Array) -> Array:
        from sigpy.mri import app

        method = app.L1WaveletRecon if kind == "W" else app.TotalVariationRecon
        found: Array = method(samples, maps, weight, max_iter=steps, show_pbar=False).run()
        return found

    return solve


def cg_sense(slab: Slab, damping: float, steps: int) -> Array:
    """Conjugate gradients with Tikhonov damping."""
    operator = slab.operator
    image = operator.adjoint(slab.y)
    solved = conjugate_gradients(
        lambda x: operator.adjoint(operator.forward(x)) + damping * x, image, steps=steps, tolerance=0.0
    )
    return slab.part(solved)


# Iterations after which the rivals' scores no longer change by 0.1 dB.
STEPS = {"BART W": 100, "BART T": 300, "sigpy W": 100, "sigpy T": 200, "CG-SENSE": 20}
GRID = (0.0003, 0.0006, 0.0012, 0.0025, 0.005, 0.01, 0.02)
DAMPING = (0.003, 0.01, 0.03, 0.1)


def rivals(slab: Slab, weights: Mapping[str, float]) -> dict[str, Callable[[], Array]]:
    """The classical methods with these weights."""
    found: dict[str, Callable[[], Array]] = {
        "zero-filled": lambda: slab.part(slab.operator.adjoint(slab.y)),
        "CG-SENSE": lambda: cg_sense(slab, weights["CG-SENSE"], STEPS["CG-SENSE"]),
    }
    for library, solver in (("sigpy", sigpy), ("BART", bart)):
        if library == "BART" and shutil.which("bart") is None:
            continue
        for kind in ("W", "T"):
            name = f"{library} {kind}"
            found[name] = lambda name=name, kind=kind, solver=solver: slab.by_plane(  # type: ignore[misc]
                solver(kind, weights[name], STEPS[name])
            )
    return found


def ours(slab: Slab, model: Preconditioned, evaluations: int) -> Callable[[], Array]:
    """What ``medidiff reconstruct`` does with so many evaluations; none is its classical image."""

    def method() -> Array:
        if not evaluations:
            return slab.part(strong_classical(slab.operator, slab.y))
        settings = Settings(steps=evaluations)
        return slab.part(restore_kspace(model, slab.operator, slab.y, settings, noise_std=NOISE).image)

    return method


def psnr(estimate: Array, slab: Slab) -> float:
    return float(-10 * np.log10(np.mean((estimate - slab.truth)[slab.mask] ** 2)))


def tune(args: argparse.Namespace) -> None:
    """The best weight of each rival for each case, on one plane of a training head, printed for CASES."""
    ((name, path),) = TUNING.people(args.data)
    head = Truth.load(path, name, TUNING)
    for case in _cases(args):
        slab = Slab.of(head, case, PLACES[0], 1, 1)
        best: dict[str, float] = {}
        for method in rivals(slab, dict.fromkeys(STEPS, 0.0)):
            if method not in STEPS or (args.only and method not in args.only):
                continue
            scores: dict[float, float] = {}
            for weight in DAMPING if method == "CG-SENSE" else GRID:
                scores[weight] = psnr(rivals(slab, {method: weight})[method](), slab)
                if scores[weight] < max(scores.values()) - 0.05:
                    break  # the score rises to one peak and falls
            best[method] = max(scores, key=lambda weight: scores[weight])
            print(case.name, method, {weight: round(score, 2) for weight, score in scores.items()}, flush=True)
        print(case.name, best, flush=True)


def _cases(args: argparse.Namespace) -> list[Case]:
    return [case for case in CASES if not args.cases or case.name in args.cases]


def main(arguments: list[str] | None = None) -> None:
    parser = scoring.parser("mri", ABOUT)
    parser.add_argument("--slabs", type=int, default=1, choices=(1, 2), help="places in the head")
    parser.add_argument("--planes", type=int, default=8, help="planes in a slab")
    parser.add_argument("--scored", type=int, default=4, help="how many of them, in the middle, are scored")
    parser.add_argument("--cases", nargs="+", help="names of cases (default: all)")
    parser.add_argument("--evaluations", nargs="+", type=int, default=[1, 4, 10])
    parser.add_argument("--only", nargs="+", help="with --resume or --tune: these methods alone, and no scores")
    parser.add_argument("--tune", action="store_true", help="find the rivals' weights on a training head instead")
    parser.add_argument("--quick", action="store_true", help="one case, one and four evaluations")
    args = parser.parse_args(arguments)
    if args.quick:
        args.cases, args.evaluations = [CASES[0].name], [1, 4]
    args.out.mkdir(parents=True, exist_ok=True)
    if args.tune:
        tune(args)
        return
    rows = Rows(args.out / "mri.csv", (*KEY, "net", "best", *scoring.SCORES), KEY, resume=args.resume)
    ((name, path),) = GROUPS["uih-b"].people(args.data)
    head, model = Truth.load(path, name, GROUPS["uih-b"]), scoring.prior(args.model)
    for case in _cases(args):
        slabs = [Slab.of(head, case, place, args.planes, args.scored) for place in PLACES[: args.slabs]]
        kept = args.out / "mri-estimates" if args.resume else None
        score(rows, case, slabs, model, args.evaluations, kept, args.only)
    if args.only:
        return
    text = f"{ABOUT}\n\n{scoring.table(rows.all, ('case', 'net'), BASELINE)}\n\n{scoring.losses(rows.all, ('case',))}"
    scoring.bars(rows.all, ("case",), "Under-sampled k-space, uih-b, simulated", args.out / "mri.png")
    scoring.report("mri", text, args)


def score(
    rows: Rows,
    case: Case,
    slabs: list[Slab],
    model: Preconditioned,
    evaluations: list[int],
    kept: Path | None,
    only: list[str] | None = None,
) -> None:
    """Fill the rows of one case; gains are over the best of the rivals.

    Args:
        kept: Where finished estimates lie, so that a run that was stopped goes on; None to begin anew.
        only: Compute the estimates of these methods, and no scores.
    """
    classical = [*rivals(slabs[0], case.weights)]
    names = [*classical, "medidiff 0", *(f"medidiff {count}" for count in evaluations)]
    if only:
        names = [name for name in names if name in only]
    if all({"case": case.name, "method": name} in rows for name in names):
        return
    truth = np.concatenate([slab.truth for slab in slabs], axis=-1)
    mask = np.concatenate([slab.mask for slab in slabs], axis=-1)
    done: dict[str, Array] = {}
    seconds: dict[str, float] = {}
    for name in names:
        file = None if kept is None else kept / f"{case.name}, {name}.npz"
        if file is not None and file.exists():
            with np.load(file, allow_pickle=False) as stored:
                done[name], seconds[name] = stored["x"], float(stored["seconds"])
            continue
        print(case.name, name, flush=True)
        begun = _cpu_seconds()
        done[name] = np.concatenate([_method(name, slab, case, model)() for slab in slabs], axis=-1)
        seconds[name] = _cpu_seconds() - begun
        if file is not None:
            file.parent.mkdir(exist_ok=True)
            np.savez(file, x=done[name], seconds=seconds[name])
    if only:
        return
    best = min(classical, key=lambda name: float(((done[name] - truth)[mask] ** 2).sum()))
    size = {"mask": mask, "seed": 0, "edge": scoring.BLOCK}
    for name in names:
        level = psnr_interval(done[name], truth, data_range=1.0, **size)
        gain = gain_interval(done[name], done[best], truth, **size)
        rows.add(
            {
                "case": case.name, "method": name, "net": f"{slabs[0].operator.acceleration:.2f}", "best": best,
                "psnr": level.value, "psnr_low": level.low, "psnr_high": level.high,
                "gain": gain.value, "gain_low": gain.low, "gain_high": gain.high,
                "ssim": plane_ssim(done[name], truth, mask), "cpu_seconds": seconds[name],
                "blocks": level.count, "voxels": int(mask.sum()),
            }
        )  # fmt: skip


def _cpu_seconds() -> float:
    """Of this process and of the programs it has run."""
    return sum(os.times()[:4])


def plane_ssim(x: Array, truth: Array, mask: Array) -> float:
    """SSIM plane by plane (11 x 11 Gaussian window), mean inside the head: a slab is too thin for a window in 3D."""
    maps = [
        structural_similarity(
            x[..., k], truth[..., k], data_range=1.0, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, full=True,
        )[1]
        for k in range(x.shape[-1])
    ]  # fmt: skip
    return float(np.stack(maps, axis=-1)[mask].mean())


def _method(name: str, slab: Slab, case: Case, model: Preconditioned) -> Callable[[], Array]:
    library, _, count = name.partition(" ")
    return ours(slab, model, int(count)) if library == "medidiff" else rivals(slab, case.weights)[name]
