"""Scores: with a reference (fidelity), where the head is, how noisy the truth is, and intervals."""

from medidiff.metrics.fidelity import (
    data_consistency,
    gradient_error,
    hfen,
    mae,
    ms_ssim,
    nrmse,
    psnr,
    robust_range,
    scores,
    seam_index,
    ssim,
)
from medidiff.metrics.foreground import head_mask
from medidiff.metrics.intervals import Interval, block_sums, bootstrap, gain_interval, psnr_interval
from medidiff.metrics.noise import NoiseFloor, noise_floor

__all__ = [
    "Interval", "NoiseFloor", "block_sums", "bootstrap", "data_consistency", "gain_interval", "gradient_error",
    "head_mask", "hfen", "mae", "ms_ssim", "noise_floor", "nrmse", "psnr", "psnr_interval", "robust_range", "scores",
    "seam_index", "ssim",
]  # fmt: skip
