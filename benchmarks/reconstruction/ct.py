"""CT from few views and from a limited arc: FBP, SART, SIRT, TV, and medidiff after 1, 2, 4 and 10 looks."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from benchmarks import machine
from benchmarks.reconstruction import ct_rivals, scoring
from benchmarks.rows import Row, Rows
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.io import read_volume
from medidiff.io.atomic import atomic_write_text
from medidiff.metrics.intervals import bootstrap
from medidiff.operators.projection import ParallelBeam, views
from medidiff.restoration.looks import look_again

Array = NDArray[Any]
HELD_OUT = "ct-totalsegmentator/example_ct.nii.gz"
TRAINING = ("ct-fnndsc/andrei_torso_ct_2mm.nii.gz", "ct-totalsegmentator/aorta_ct_cropped.nii.gz")
# Views, and degrees of the arc they lie on.
CASES = {"20 views": (20, 180), "40 views": (40, 180), "60 views": (60, 180), "60 views of 120 degrees": (60, 120)}
LOOKS = (1, 2, 4, 10)
PHOTONS = 1e6
WATER_PER_MM = 0.0193  # at 70 keV, NIST
WINDOW = (-160.0, 240.0)
BODY_HU = -500.0
HU_PER_UNIT = 2048.0
KEY = ("case", "method")
COLUMNS = (*KEY, *scoring.SCORES, "psnr_full")
TUNED = Path(__file__).parent / "ct_tuned.json"
BASELINE = "TV"
ABOUT = (
    "One person never trained or tuned on (TotalSegmentator's example, abdomen and pelvis, 3 mm, 122 x 101 pixels), "
    "{planes} planes 48 mm apart. Simulated: parallel beam, equal steps over half a turn (or over 120 degrees), "
    "Poisson noise of 10^6 photons a ray, projected from a grid twice as fine as the reconstruction's, whose means are "
    "the truth. Scores are of the soft-tissue window (-160 to 240 HU, its 400 HU the range of PSNR and SSIM) inside "
    "the body; intervals are over planes of that one person and say nothing about another. Every rival was tuned by "
    "grid on the two training scans at the same pixel size, for each case, on the same score. SIRT is ours, on the "
    "projections that ASTRA has too, and agrees with ASTRA's."
)


@dataclass(frozen=True)
class Case:
    """Planes of one scan, and what a scanner would measure of them.

    Args:
        truth: Attenuation over water's and 2.048, shape (1, 1, i, j, k).
        y: Line integrals, model units times pixels.
        noise_std: Of the noise in ``y``, root mean square.
    """

    truth: Tensor
    operator: ParallelBeam
    y: Tensor
    noise_std: float

    @classmethod
    def simulate(cls, planes: Tensor, pixel_mm: float, count: int, arc: float, seed: int) -> Case:
        """The scanner sees finer structure than pixels; the truth is the mean of it in each pixel."""
        fine = _finer_image(planes)
        truth = _halved(fine)
        shape = tuple(truth.shape[1:])
        # Odd, so that scikit-image has the axis where we have it.
        operator = ParallelBeam(shape, views(count, arc), detectors=2 * math.ceil(math.hypot(*shape[1:3]) / 2) + 1)
        clean = _finer(operator).forward(fine) / 2
        unit = HU_PER_UNIT / 1000 * WATER_PER_MM * pixel_mm
        counts = np.random.default_rng(seed).poisson(PHOTONS * np.exp(-unit * clean.numpy()))
        y = torch.from_numpy((-np.log(np.maximum(counts, 1) / PHOTONS) / unit).astype(np.float32))
        # What a scanner knows of its noise: the counts.
        noise = math.sqrt(float((1 / np.maximum(counts, 1)).mean())) / unit
        return cls(truth, operator, y, noise)

    @property
    def body(self) -> Array:
        hu = _hu(self.truth)
        return np.asarray(hu > BODY_HU)


def _finer(operator: ParallelBeam) -> ParallelBeam:
    """The same rays through pixels half the size: not the operator that reconstructs."""
    c, i, j, k = operator.in_shape
    return ParallelBeam((c, 2 * i, 2 * j, k), operator.angles, detectors=operator.detectors, pitch=2.0)


def _finer_image(x: Tensor) -> Tensor:
    """Pixels of half the size, by cubic interpolation."""
    planes = x[0].permute(3, 0, 1, 2)
    finer = functional.interpolate(planes, scale_factor=2, mode="bicubic", align_corners=False).clamp_min(0)
    return finer.permute(1, 2, 3, 0)[None]


def _halved(x: Tensor) -> Tensor:
    """Means of 2 x 2 pixels."""
    return functional.avg_pool2d(x[0].permute(3, 0, 1, 2), 2).permute(1, 2, 3, 0)[None]


def _at_pixel(x: Tensor, scale: float) -> Tensor:
    """Planes at another pixel size, both axes odd."""
    planes = x[0].permute(3, 0, 1, 2)
    size = [2 * int(n * scale / 2) + 1 for n in planes.shape[2:]]
    resized = functional.interpolate(planes, size=size, mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp_min(0).permute(1, 2, 3, 0)[None].contiguous()


def planes_of(path: Path, step: int) -> tuple[Tensor, float]:
    """Every ``step``-th plane of a scan in model units, both axes odd, and the pixel in mm."""
    volume = read_volume(path).reoriented()
    hu = np.maximum(volume.data[0], -1000.0)[:, :, step // 2 :: step]
    # Odd sizes have a middle pixel, where scikit-image turns an image too.
    hu = np.pad(hu, ((0, 1 - hu.shape[0] % 2), (0, 1 - hu.shape[1] % 2), (0, 0)), constant_values=-1000.0)
    model = (hu + 1000.0) / HU_PER_UNIT
    return torch.from_numpy(model.astype(np.float32))[None, None], float(volume.geometry.spacing[0])


def _hu(x: Tensor) -> Array:
    return np.asarray(x[0, 0].numpy() * HU_PER_UNIT - 1000.0, dtype=np.float64)


def window_errors(x: Tensor, case: Case) -> Array:
    """Squared errors in the window, full squared errors, and voxels: shape (planes, 3)."""
    estimate, truth, body = _hu(x), _hu(case.truth), case.body
    inside = (np.clip(estimate, *WINDOW) - np.clip(truth, *WINDOW)) ** 2
    whole = (estimate - truth) ** 2
    return np.stack([(part * body).sum((0, 1)) for part in (inside, whole, np.ones_like(whole))], axis=1)


def psnr(errors: Array) -> float:
    """Of the window, dB."""
    return float(_level(errors.sum(0)))


def _level(sums: Array) -> Array:
    return np.asarray(10 * np.log10((WINDOW[1] - WINDOW[0]) ** 2 * sums[..., 2] / sums[..., 0]))


def similarity(x: Tensor, case: Case) -> float:
    """SSIM of the window, 2D, mean inside the body."""
    from skimage.metrics import structural_similarity

    estimate, truth = (np.clip(_hu(part), *WINDOW) for part in (x, case.truth))
    total = 0.0
    for k in range(truth.shape[2]):
        _, full = structural_similarity(
            estimate[..., k], truth[..., k], data_range=WINDOW[1] - WINDOW[0], gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, full=True,
        )  # fmt: skip
        total += float(full[case.body[..., k]].sum())
    return total / float(case.body.sum())


def tune(data: Path, only: str | None = None) -> dict[str, dict[str, dict[str, Any]]]:
    """The settings of every rival that score best on the training scans, case by case, at the pixels of the test."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    _, pixel = planes_of(data / HELD_OUT, 64)
    for name, (count, arc) in CASES.items():
        cases = []
        for number, path in enumerate(TRAINING):
            truth, mm = planes_of(data / path, 1)
            chosen = truth[..., 20 :: truth.shape[-1] // 2].contiguous()
            cases.append(Case.simulate(_at_pixel(chosen, mm / pixel), pixel, count, arc, number))
        for rival, grid in ct_rivals.GRIDS.items():
            if only is not None and rival != only:
                continue
            scores = [
                float(
                    np.mean([psnr(window_errors(ct_rivals.reconstruct(rival, c.operator, c.y, s), c)) for c in cases])
                )
                for s in grid
            ]
            best = int(np.argmax(scores))
            found.setdefault(name, {})[rival] = dict(grid[best])
            print(name, rival, dict(grid[best]), [round(score, 2) for score in scores], flush=True)
    return found


def _score(rival: str, case: Case, settings: Mapping[str, Any]) -> float:
    return psnr(window_errors(ct_rivals.reconstruct(rival, case.operator, case.y, settings), case))


def methods(case: Case, model: Preconditioned, tuned: Mapping[str, Any]) -> dict[str, Callable[[], Tensor]]:
    """Every answer, by name."""

    def rival(name: str) -> Callable[[], Tensor]:
        return lambda: ct_rivals.reconstruct(name, case.operator, case.y, tuned[name])

    def ours(looks: int) -> Callable[[], Tensor]:
        return lambda: look_again(model, case.operator, case.y, case.noise_std, looks=looks)[-1]

    named = {looks: f"medidiff, {looks} look{'s' if looks > 1 else ''}" for looks in LOOKS}
    return {name: rival(name) for name in ct_rivals.GRIDS} | {named[looks]: ours(looks) for looks in LOOKS}


def fill(rows: Rows, name: str, case: Case, found: Mapping[str, Callable[[], Tensor]]) -> dict[str, Tensor]:
    """Score the methods of a case; rows that are there are kept."""
    images: dict[str, Tensor] = {}
    strong = None
    for method, run in found.items():
        if {"case": name, "method": method} in rows and method != BASELINE:
            continue
        print(name, method, flush=True)
        done = machine.measure(run)
        images[method] = done.result
        errors = window_errors(done.result, case)
        if method == BASELINE:
            strong = errors
        both = np.concatenate([errors, errors if strong is None else strong], axis=1)
        level = bootstrap(errors, _level, seed=0, unit="plane")
        gain = bootstrap(both, lambda s: 10 * np.log10(s[..., 3] / s[..., 0]), seed=0, unit="plane")
        whole = 10 * math.log10(HU_PER_UNIT**2 * errors[:, 2].sum() / errors[:, 1].sum())
        rows.add(
            {
                "case": name, "method": method, "psnr": level.value, "psnr_low": level.low, "psnr_high": level.high,
                "gain": gain.value, "gain_low": gain.low, "gain_high": gain.high,
                "ssim": similarity(done.result, case), "cpu_seconds": done.cost.cpu_seconds, "blocks": level.count,
                "voxels": int(case.body.sum()), "psnr_full": whole,
            }
        )  # fmt: skip
    return images


def picture(images: Mapping[str, Tensor], case: Case, plane: int, out: Path) -> None:
    """One plane by every method, in the window that was scored."""
    shown = {"truth": case.truth, **images}
    figure = Figure(figsize=(2.2 * len(shown), 2.6), dpi=110, layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    for axes, (name, image) in zip(figure.subplots(1, len(shown)), shown.items(), strict=True):
        axes.imshow(_hu(image)[:, ::-1, plane].T, cmap="gray", vmin=WINDOW[0], vmax=WINDOW[1])
        axes.set_title(name, fontsize=8)
        axes.axis("off")
    scoring.save(canvas, out)


def sorted_rows(rows: Rows) -> list[Row]:
    """By case, rivals first."""
    order = [*ct_rivals.GRIDS]
    return sorted(
        rows.all, key=lambda r: (list(CASES).index(r["case"]), order.index(r["method"]) if r["method"] in order else 99)
    )


def main(arguments: list[str] | None = None) -> None:
    args = _arguments(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        if args.tune:
            atomic_write_text(TUNED, json.dumps(tune(args.data, args.only), indent=1) + "\n")
            return
        tuned = json.loads(TUNED.read_text(encoding="utf-8"))
        rows = Rows(args.out / "ct.csv", COLUMNS, KEY, resume=args.resume)
        truth, mm = planes_of(args.data / HELD_OUT, args.step)
        model = scoring.prior(args.model)
        for name, (count, arc) in CASES.items():
            case = Case.simulate(truth, mm, count, arc, 0)
            images = fill(rows, name, case, methods(case, model, tuned[name]))
            if name == "40 views" and len(images) > 1:
                picture(images, case, truth.shape[-1] // 2, args.out / "ct_planes.png")
    done = sorted_rows(rows)
    about = ABOUT.format(planes=truth.shape[-1])
    text = f"{about}\n\n{scoring.table(done, KEY[:1], BASELINE)}\n\n{scoring.losses(done, KEY[:1])}"
    scoring.bars(done, KEY[:1], "CT, one person never trained on, soft-tissue window", args.out / "ct.png")
    scoring.report("ct", text, args)
    pictured = args.out / "ct_planes.png"
    if args.docs and pictured.exists():
        (args.docs.parent / "benchmarks" / pictured.name).write_bytes(pictured.read_bytes())


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = scoring.parser("ct", ABOUT.format(planes="7"))
    parser.set_defaults(model="ct-body")
    parser.add_argument("--step", type=int, default=16, help="take every so many planes (default: 16, 48 mm)")
    parser.add_argument("--tune", action="store_true", help="tune the rivals on the training scans instead")
    parser.add_argument("--only", choices=list(ct_rivals.GRIDS), help="tune this rival alone (prints; for a look)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
