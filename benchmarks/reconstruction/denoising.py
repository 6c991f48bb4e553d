"""Noise taken out of a head never trained on: Gaussian and Rician, three levels, against BM4D and non-local means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ive

from benchmarks.reconstruction import scoring
from benchmarks.rows import Rows
from benchmarks.superresolution.cases import TUNING, Truth
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.restoration import Denoise, Settings
from medidiff.volume import Volume

Array = NDArray[Any]
KEY = ("noise", "level", "method")
BASELINE = "non-local means"
LEVELS = (0.03, 0.06, 0.10)
# By --tune on a head of the training set, at 6% noise: strength over the noise's standard deviation.
NLM_STRENGTH = {"Gaussian": 0.4, "Rician": 0.4}
BM4D_STRENGTH = {"Gaussian": 1.0, "Rician": 1.0}
ABOUT = (
    "uih-b, T1 1 mm, its middle; noise of 3, 6 and 10% of the range added to what already is there, and every method "
    "told its standard deviation. Rician: magnitude of a complex image with noise in both parts; the rivals' results "
    "are then corrected by the inverse of the Rician mean, which the network has to know by itself. Strengths tuned on "
    "another head. BM4D is its authors' package bm4d, free for non-commercial work only and in none of our extras. "
    "Inside the head."
)


@dataclass(frozen=True)
class Case:
    """A head with noise, and what is made of it."""

    noisy: Array
    std: float
    kind: str
    truth: Truth
    model: Preconditioned

    @classmethod
    def of(cls, truth: Truth, kind: str, level: float, model: Preconditioned) -> Case:
        rng = np.random.default_rng(0)
        clean, std = truth.volume.data[0], level * truth.data_range
        noisy = clean + std * rng.normal(size=clean.shape)
        if kind == "Rician":
            noisy = np.hypot(noisy, std * rng.normal(size=clean.shape))
        return cls(noisy.astype(np.float32), std, kind, truth, model)

    def methods(self) -> Mapping[str, scoring.Method]:
        found: dict[str, scoring.Method] = {
            "noisy": lambda: self.noisy,
            BASELINE: lambda: self.unbiased(nlm(self.noisy, self.std, NLM_STRENGTH[self.kind])),
            "medidiff": self.ours,
        }
        if bm4d_here():
            found["BM4D"] = lambda: self.unbiased(bm4d(self.noisy, self.std, BM4D_STRENGTH[self.kind]))
        return found

    def unbiased(self, x: Array) -> Array:
        return rician_inverse(x, self.std) if self.kind == "Rician" else x

    def ours(self) -> Array:
        volume = Volume(self.noisy[None], self.truth.volume.geometry, self.truth.volume.modality)
        denoise = Denoise(self.std)
        return np.asarray(denoise.run(volume, self.model, Settings(guidance=denoise.guidance)).mean[0])


def nlm(x: Array, std: float, strength: float) -> Array:
    """scikit-image's non-local means in 3D (Coupe et al. 2008)."""
    from skimage.restoration import denoise_nl_means

    return np.asarray(
        denoise_nl_means(x, patch_size=3, patch_distance=4, h=strength * std, sigma=std, fast_mode=True)
    )  # fmt: skip


def bm4d_here() -> bool:
    try:
        import bm4d  # noqa: F401
    except ImportError:
        print("BM4D is left out: pip install bm4d (for non-commercial research only)")
        return False
    return True


def bm4d(x: Array, std: float, strength: float) -> Array:
    """Maggioni et al. (2013), by its authors."""
    from bm4d import bm4d as run

    scale = float(x.max())
    return np.asarray(run((x / scale).astype(np.float32), strength * std / scale)) * scale


def rician_inverse(mean: Array, std: float) -> Array:
    """Signal whose magnitude has this mean, by a table of the Rician mean (Koay & Basser 2006)."""
    signal = np.linspace(0, 12, 2401)
    half = signal**2 / 4
    # Bessel functions without their exponential growth: L_1/2(-x) = exp(-x/2) ((1 + x) I0(x/2) + x I1(x/2)).
    expected = np.sqrt(np.pi / 2) * ((1 + 2 * half) * ive(0, half) + 2 * half * ive(1, half))
    ratio = mean / std
    far = np.sqrt(np.maximum(ratio**2 - 1, 0))
    return np.where(ratio < expected[-1], np.interp(ratio, expected, signal), far) * std


def main(arguments: list[str] | None = None) -> None:
    parser = scoring.parser("denoising", ABOUT)
    parser.add_argument("--tune", action="store_true", help="print the rivals' scores on a head of the training set")
    args = parser.parse_args(arguments)
    model = scoring.prior(args.model)
    crop = args.crop or 64
    if args.tune:
        ((name, path),) = TUNING.people(args.data)
        tune(Truth.load(path, name, TUNING, crop=crop), model)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    rows = Rows(args.out / "denoising.csv", (*KEY, *scoring.SCORES), KEY, resume=args.resume)
    truth = scoring.head(args.data, crop)
    for kind in ("Gaussian", "Rician"):
        for level in LEVELS:
            case = Case.of(truth, kind, level, model)
            scoring.fill(rows, {"noise": kind, "level": f"{level:.0%}"}, case.methods(), BASELINE, truth)
    scoring.bars(rows.all, KEY[:-1], "Noise taken out, uih-b", args.out / "denoising.png")
    table = scoring.table(rows.all, KEY[:-1], BASELINE)
    absent = (
        "" if any(row["method"] == "BM4D" for row in rows.all) else "BM4D was not installed and is not compared.\n\n"
    )
    scoring.report("denoising", f"{ABOUT}\n\n{table}\n\n{absent}{scoring.losses(rows.all, KEY[:-1])}", args)


def tune(truth: Truth, model: Preconditioned) -> None:
    """Scores of each strength at 6% noise, and of our own with the rivals' correction."""
    rivals: dict[str, Callable[[Array, float, float], Array]] = {BASELINE: nlm}
    if bm4d_here():
        rivals["BM4D"] = bm4d
    for kind in ("Gaussian", "Rician"):
        case = Case.of(truth, kind, 0.06, model)
        for name, rival in rivals.items():
            for strength in (0.2, 0.3, 0.4, 0.6) if name == BASELINE else (0.7, 0.85, 1.0):
                found = rival(case.noisy, case.std, strength)
                print(
                    kind, name, strength, _psnr(case, found), "corrected", _psnr(case, case.unbiased(found)), flush=True
                )
        found = case.ours()
        air = ~truth.mask
        bias = float(np.mean((found - truth.volume.data[0])[air])) / case.std if air.any() else float("nan")
        print(kind, "medidiff", _psnr(case, found), "corrected", _psnr(case, case.unbiased(found)), "air bias", bias)


def _psnr(case: Case, x: Array) -> float:
    error = (x - case.truth.volume.data[0])[case.truth.mask]
    return round(float(20 * np.log10(case.truth.data_range / np.sqrt(np.mean(error**2)))), 2)
