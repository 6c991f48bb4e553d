"""Set against set: how far synthetic volumes lie from real ones, what they cover, how alike they are, their anatomy.

Kernels and neighbours compare features of an encoder (``medidiff.metrics.features``); structures compare label maps.
"""

from medidiff.metrics.sets.diversity import mean_pair, ms_ssim_pairs
from medidiff.metrics.sets.kernels import fid, frechet, kid, mmd2, mmd2_interval, rbf_mmd
from medidiff.metrics.sets.manifolds import coverage, density, precision, recall
from medidiff.metrics.sets.panel import Panel, Sample
from medidiff.metrics.sets.structures import shape_features, wasserstein, wasserstein_interval
from medidiff.metrics.sets.typicality import alpha_precision_curve, authenticity, beta_recall_curve, integrated

__all__ = [
    "Panel", "Sample", "alpha_precision_curve", "authenticity", "beta_recall_curve", "coverage", "density", "fid",
    "frechet", "integrated", "kid", "mean_pair", "mmd2", "mmd2_interval", "ms_ssim_pairs", "precision", "rbf_mmd",
    "recall", "shape_features", "wasserstein", "wasserstein_interval",
]  # fmt: skip
