"""A correlated Gaussian prior, for which every posterior has a closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medidiff.operators import LinearOperator


def correlated_covariance(shape: tuple[int, int, int], length: float, std: float) -> Tensor:
    """Covariance of voxels whose correlation falls as exp(-distance / length), shape (n, n), float64."""
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in shape), indexing="ij")
    places = torch.stack([a.flatten() for a in axes], dim=1)
    return std**2 * torch.exp(-torch.cdist(places, places) / length)


@dataclass(frozen=True)
class GaussianPrior:
    """The exact denoiser of x0 ~ N(mean, covariance); a ``Denoiser``.

    Args:
        shape: Grid (i, j, k).
        mean: Shape (n,).
        covariance: Shape (n, n).
    """

    shape: tuple[int, int, int]
    mean: Tensor
    covariance: Tensor

    @property
    def sigma_min(self) -> float:
        return 1e-3 * self.spread

    @property
    def sigma_max(self) -> float:
        return 1e6 * self.spread

    @property
    def spread(self) -> float:
        return float(self.covariance.diagonal().mean().sqrt())

    def gain(self, sigma: float) -> Tensor:
        """The matrix that shrinks a noisy deviation from the mean to its expectation."""
        n = len(self.covariance)
        return self.covariance @ torch.linalg.inv(self.covariance + sigma**2 * torch.eye(n, dtype=torch.float64))

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        if len(sigma.unique()) > 1:
            return torch.cat([self(item[None], s[None]) for item, s in zip(x, sigma, strict=True)])
        return (self.mean + (x.flatten(1) - self.mean) @ self.gain(float(sigma[0])).T).reshape(x.shape)

    def posterior(
        self, operator: LinearOperator, y: Tensor, noise_std: float, x: Tensor | None = None, sigma: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Mean (b, n) and covariance (n, n) of x0 given y, and given a noisy image ``x`` if there is one."""
        n = len(self.covariance)
        basis = torch.eye(n, dtype=torch.float64).reshape(n, *operator.in_shape)
        matrix = operator.forward(basis).reshape(n, -1).T
        values, data_variance = y.flatten(1), [noise_std**2] * len(matrix)
        if x is not None:
            matrix = torch.cat([matrix, torch.eye(n, dtype=torch.float64)])
            values = torch.cat([values, x.flatten(1)], dim=1)
            data_variance += [sigma**2] * n
        cross = self.covariance @ matrix.T
        gram = matrix @ cross + torch.diag(torch.tensor(data_variance, dtype=torch.float64))
        gain = torch.linalg.solve(gram, cross.T).T
        mean = self.mean + (values - self.mean @ matrix.T) @ gain.T
        return mean, self.covariance - gain @ cross.T

    def draw(self, count: int, seed: int) -> Tensor:
        """True images, shape (count, 1, i, j, k)."""
        generator = torch.Generator().manual_seed(seed)
        white = torch.randn(count, len(self.mean), generator=generator, dtype=torch.float64)
        root = torch.linalg.cholesky(self.covariance)
        return (self.mean + white @ root.T).reshape(count, 1, *self.shape)


def correlated_prior(shape: tuple[int, int, int] = (3, 3, 12), length: float = 3.0, std: float = 0.5) -> GaussianPrior:
    covariance = correlated_covariance(shape, length, std)
    mean = torch.linspace(0.2, 1.0, len(covariance), dtype=torch.float64)
    return GaussianPrior(shape, mean, covariance)


def white_prior(shape: tuple[int, int, int] = (3, 3, 12), std: float = 0.5) -> GaussianPrior:
    n = shape[0] * shape[1] * shape[2]
    return GaussianPrior(shape, torch.full((n,), 0.3, dtype=torch.float64), std**2 * torch.eye(n, dtype=torch.float64))
