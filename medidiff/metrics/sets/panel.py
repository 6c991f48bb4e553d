"""Every figure of a set against a reference, with intervals: one function for sets, ceilings, floors and benchmarks.

panel = Panel(reference, training, spread=...)
panel.figures(sample)["KID"]            # an Interval
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.metrics.intervals import Interval, bootstrap
from medidiff.metrics.sets import diversity, kernels, manifolds, structures, typicality

Array = NDArray[Any]

KID, MMD, FID = "KID", "MMD (RBF kernel)", "FID"
PRECISION, DENSITY, ALPHA = "precision", "density", "alpha-precision"
RECALL, COVERAGE, BETA = "recall", "coverage", "beta-recall"
LAYOUT = "layout"
LIKENESS, AUTHENTICITY, STRUCTURES = "MS-SSIM between items", "authenticity", "structures, Wasserstein"


@dataclass(frozen=True, slots=True)
class Sample:
    """A set as figures see it.

    Args:
        features: Of an encoder, shape (n, d).
        likeness: MS-SSIM of every two of some of its items, shape (m, m); None if it was not taken.
        shapes: Of its labelled structures, shape (n, values, 4); None without label maps.
        layout: Correlation of each image with the mean person, shape (n,); None if it was not taken.
    """

    features: Array
    likeness: Array | None = None
    shapes: Array | None = None
    layout: Array | None = None

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, chosen: Sequence[int] | Array) -> Sample:
        """Some of its items; how alike they are is not known of others than it was taken of."""
        index = np.asarray(chosen, dtype=np.intp)
        shapes, layout = (None if each is None else each[index] for each in (self.shapes, self.layout))
        return Sample(self.features[index], None, shapes, layout)


@dataclass(frozen=True)
class Panel:
    """Figures of sets against one reference.

    Args:
        reference: Real people who were not trained on.
        training: Features of the people trained on, shape (n, d): authenticity asks for them. None leaves it out.
        spread: Standard deviation of the shapes over real people, shape (values, 4).
        k: Neighbours that make a ball.
        draws, seed, level: Of the bootstrap.
    """

    reference: Sample
    training: Array | None = None
    spread: Array | None = None
    k: int = manifolds.NEAREST
    draws: int = 1000
    seed: int = 0
    level: float = 0.95
    _bandwidth: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_bandwidth", kernels.median_distance(self.reference.features))

    def figures(self, sample: Sample) -> dict[str, Interval]:
        """Every figure that can be taken of a set, by name; those that its n or its data do not allow are absent."""
        real, fake = self.reference.features, sample.features
        found = {
            KID: self._mmd(fake, kernels.polynomial_kernel),
            MMD: self._mmd(fake, kernels.RBF(self._bandwidth)),
            ALPHA: self._curve(typicality.alpha_precision_curve(real, fake), "item"),
            BETA: self._curve(typicality.beta_recall_curve(real, fake), "person"),
        }
        value = kernels.fid(real, fake)
        if value is not None:
            found[FID] = Interval(value, value, value, len(fake), "item", self.level)
        if min(len(real), len(fake)) > self.k:
            found[PRECISION] = self._mean(manifolds.precision(real, fake, self.k), "item")
            found[DENSITY] = self._mean(manifolds.density(real, fake, self.k), "item")
            found[RECALL] = self._mean(manifolds.recall(real, fake, self.k), "person")
            found[COVERAGE] = self._mean(manifolds.coverage(real, fake, self.k), "person")
        if self.training is not None:
            found[AUTHENTICITY] = self._mean(typicality.authenticity(self.training, fake), "item")
        if sample.layout is not None:
            found[LAYOUT] = self._mean(sample.layout, "item")
        if sample.likeness is not None:
            found[LIKENESS] = diversity.mean_pair(sample.likeness, seed=self.seed, draws=self.draws, level=self.level)
        if sample.shapes is not None and self.reference.shapes is not None and self.spread is not None:
            shapes = self.reference.shapes, sample.shapes, self.spread
            found[STRUCTURES] = structures.wasserstein_interval(
                *shapes, seed=self.seed, draws=self.draws // 2, level=self.level
            )
        return found

    def _mmd(self, fake: Array, kernel: kernels.Kernel) -> Interval:
        real = self.reference.features
        return kernels.mmd2_interval(real, fake, kernel, seed=self.seed, draws=self.draws, level=self.level)

    def _mean(self, each: Array, unit: str) -> Interval:
        return self._bootstrap(each[:, None], lambda sums: sums[..., 0] / len(each), unit)

    def _curve(self, curve: Array, unit: str) -> Interval:
        def value(sums: Array) -> Array:
            off = np.abs(sums / len(curve) - typicality.LEVELS).mean(axis=-1)
            return np.asarray(np.maximum(1 - 2 * off, 0))  # rounding alone goes below

        return self._bootstrap(curve, value, unit)

    def _bootstrap(self, sums: Array, statistic: Callable[[Array], Array], unit: str) -> Interval:
        return bootstrap(sums, statistic, seed=self.seed, unit=unit, draws=self.draws, level=self.level)
