"""How far each guidance rule is from the exact posterior mean of a Gaussian prior.

``python -m tests.guidance_bias`` writes the table of docs/guidance.md anew.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from medidiff.guidance import RULES, Guidance, tweedie
from medidiff.operators import Identity, Likelihood, LinearOperator, SliceOperator, SliceProfile
from tests.gaussian_prior import GaussianPrior, correlated_prior, white_prior

SHAPE = (3, 3, 12)
# In units of the prior's standard deviation.
SIGMAS = (0.05, 0.2, 0.5, 1.0, 2.0, 10.0)
PAGE = Path(__file__).parents[1] / "docs" / "guidance.md"
BEGIN, END = "<!-- measured: python -m tests.guidance_bias -->", "<!-- end of the measured table -->"

_GRID = (1, *SHAPE)
CASES: dict[str, tuple[GaussianPrior, LinearOperator, float]] = {
    "correlated prior, x4 slices, no noise": (
        correlated_prior(SHAPE),
        SliceOperator(_GRID, 2, SliceProfile(4, 4)),
        0.0,
    ),
    "correlated prior, x4 slices, noise 0.1": (
        correlated_prior(SHAPE),
        SliceOperator(_GRID, 2, SliceProfile(4, 4)),
        0.1,
    ),
    "correlated prior, every voxel, noise 0.2": (correlated_prior(SHAPE), Identity(_GRID), 0.2),
    "white prior, x4 slices, noise 0.1": (white_prior(SHAPE), SliceOperator(_GRID, 2, SliceProfile(4, 4)), 0.1),
}
MEASURED: dict[str, Guidance] = {**RULES, "tweedie, converged": partial(tweedie, steps=300)}


def bias(case: str, rule: Guidance, ratio: float, count: int = 64) -> float:
    """Root mean square of (rule - closed form) over true images and noise, in units of the prior's deviation."""
    prior, operator, noise_std = CASES[case]
    sigma = ratio * prior.spread
    truth = prior.draw(count, seed=1)
    generator = torch.Generator().manual_seed(2)
    x = truth + sigma * torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    y = operator.forward(truth)
    y = y + noise_std * torch.randn(y.shape, generator=generator, dtype=torch.float64)
    found = rule(prior, Likelihood(operator, y, noise_std), x, torch.full((count,), sigma, dtype=torch.float64))
    exact, _ = prior.posterior(operator, y, noise_std, x, sigma)
    return float((found.flatten(1) - exact).square().mean().sqrt()) / prior.spread


def table() -> str:
    """The measured biases as Markdown."""
    lines = [
        "| case | rule | " + " | ".join(f"{s:g}" for s in SIGMAS) + " |",
        "|---|---|" + "--:|" * len(SIGMAS),
    ]
    for case in CASES:
        for name, rule in MEASURED.items():
            cells = [f"{bias(case, rule, s):.3f}" for s in SIGMAS]
            lines.append(f"| {case} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    page = PAGE.read_text()
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}")


if __name__ == "__main__":
    main()
