"""What the data says: ``y = A x + noise``, and the point nearest to an estimate that agrees with it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from medidiff.operators.base import LinearOperator, inner


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Measurements and how they came about.

    Args:
        operator: The known linear part.
        y: Measurements, shape (b, *operator.out_shape), model units.
        noise_std: Standard deviation of the noise in ``y``; 0 makes the data binding.
    """

    operator: LinearOperator
    y: Shaped[Tensor, "b ..."]
    noise_std: float = 0.0

    def prox(self, x0: Shaped[Tensor, "b ..."], rho: float | Tensor) -> Tensor:
        """Minimise ``|A x - y|^2 / (2 noise_std^2) + |x - x0|^2 / (2 rho^2)``.

        Written with the Gram matrix, ``x0 + A^H (A A^H + (noise_std / rho)^2)^-1 (y - A x0)``, it stays valid at
        zero noise, where it is the orthogonal projection onto the images that reproduce the data.

        Args:
            x0: Estimate, shape (b, *operator.in_shape).
            rho: Its uncertainty (standard deviation), one number or one per item.
        """
        return self._corrected(x0, (self.noise_std / torch.as_tensor(rho)) ** 2 if self.noise_std else 0.0)

    def project(self, x0: Tensor) -> Tensor:
        """The nearest image that reproduces the data exactly, noise or not."""
        return self._corrected(x0, 0.0)

    def _corrected(self, x0: Tensor, damping: float | Tensor) -> Tensor:
        misfit = self.y - self.operator.forward(x0)
        correction = self.operator.adjoint(self.operator.solve_gram(misfit, damping))
        # Complex measurements of a real image correct its real part.
        return x0 + (correction.real if correction.is_complex() and not x0.is_complex() else correction)

    def misfit(self, x: Tensor) -> Tensor:
        """Relative data-consistency error ``|A x - y| / |y|`` of each item, shape (b,)."""
        difference = self.operator.forward(x) - self.y
        return (inner(difference, difference).real / inner(self.y, self.y).real.clamp_min(1e-30)).sqrt()
