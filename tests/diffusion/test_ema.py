"""The moving average of the weights against its definition."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medidiff.diffusion.ema import EMA


def test_the_average_is_the_recursion_that_it_claims() -> None:
    module = nn.Linear(3, 2, bias=False)
    ema, expected = EMA(module, decay=0.9), module.weight.detach().clone()
    for step in range(200):
        with torch.no_grad():
            module.weight += torch.randn(2, 3, generator=torch.Generator().manual_seed(step))
        ema.update(module, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module.weight.detach()
    torch.testing.assert_close(ema.average["weight"], expected)


def test_early_weights_are_forgotten() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 1e6)
    ema = EMA(module, decay=0.9999)
    nn.init.ones_(module.weight)
    for step in range(200):
        ema.update(module, step)
    assert float(ema.average["weight"]) == pytest.approx(1, abs=1e-3)


def test_it_follows_nothing_by_itself_and_is_written_back_whole() -> None:
    module, other = nn.Linear(4, 4), nn.Linear(4, 4)
    ema = EMA(module)
    kept = {name: tensor.clone() for name, tensor in ema.tensors().items()}
    with torch.no_grad():
        module.weight.zero_()
    assert torch.equal(ema.average["weight"], kept["weight"])
    ema.copy_to(other)
    for name, parameter in other.named_parameters():
        assert torch.equal(parameter, kept[name])
