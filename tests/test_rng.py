"""Seeds: one a result, one generator an item."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from medidiff.rng import derive_seed, generators, resolve_seed

seeds = st.integers(0, 2**63 - 1)

GOLDEN = [4761921975702974394, 1576848291327681832, 17546798659203744]


def test_zero_is_a_seed_like_any_other() -> None:
    assert resolve_seed(0) == 0


def test_no_seed_gives_a_fresh_one() -> None:
    assert len({resolve_seed(None) for _ in range(8)}) > 1


def test_derived_seeds_never_change_between_versions() -> None:
    # Results that were published with a seed must come out again.
    assert [derive_seed(0), derive_seed(0, 0), derive_seed(7, 1, 2)] == GOLDEN


@given(seeds, st.lists(st.integers(0, 2**31), max_size=3))
def test_a_derived_seed_fits_a_torch_generator(seed: int, path: list[int]) -> None:
    assert 0 <= derive_seed(seed, *path) < 2**63


@given(seeds)
def test_paths_lead_to_different_seeds(seed: int) -> None:
    paths = [(), (0,), (0, 0), (1,), (2,), (1, 2), (2, 1), (12,), (1, 0), (2**32,), (0, 1)]
    assert len({derive_seed(seed, *path) for path in paths}) == len(paths)


def test_large_seeds_do_not_meet_small_ones_with_a_path() -> None:
    # NumPy splits integers into 32-bit words; there these two were the same.
    assert derive_seed(5 + 2**32) != derive_seed(5, 1)


def test_an_item_gets_the_same_noise_in_any_batch() -> None:
    import torch

    small, large = generators(3, 2), generators(3, 5)
    for a, b in zip(small, large[:2], strict=True):
        assert torch.equal(torch.randn(16, generator=a), torch.randn(16, generator=b))


def test_items_get_different_noise() -> None:
    import torch

    first, second = generators(3, 2)
    assert not torch.equal(torch.randn(16, generator=first), torch.randn(16, generator=second))


def test_seeds_need_no_torch(repository: Path) -> None:
    code = "import sys; from medidiff.rng import derive_seed; derive_seed(1, 2); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=repository, check=False).returncode == 0
