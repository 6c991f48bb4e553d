"""Coil maps from the data: near the true ones where there is a head, by each method, against BART's where it is."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from medidiff.errors import InputError
from medidiff.operators import CartesianKSpace
from medidiff.operators.sampling import uniform_mask
from medidiff.restoration.coils import calibration_region, compress, estimate_maps
from medidiff.training.kspace_simulation import coil_maps, smooth_phase
from medidiff.volume import Volume

PLANE, COILS = (96, 112), 6


@pytest.fixture(scope="module")
def truth(mni: Volume) -> tuple[Tensor, Tensor, Tensor]:
    """Maps (coils, i, j, 1), where there is a head (i, j), and measured k-space (coils, i, j, 1)."""
    rng = np.random.default_rng(2)
    head = torch.from_numpy(mni.data[:, 2:194:2, 4:228:2, 90:91].copy())[None]
    maps = coil_maps(PLANE, COILS, rng)[..., None]
    operator = CartesianKSpace((1, *PLANE, 1), torch.from_numpy(uniform_mask(PLANE, 2, axis=1, centre=0.25)), maps)
    y = operator.forward(head * torch.exp(1j * smooth_phase(PLANE, rng))[..., None])
    noise = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(0))
    inside = head[0, 0, ..., 0] > 0.2 * head.max()
    return maps, inside, (y + 1e-3 * float(head.max()) * noise * operator.taken)[0]


def overlap(found: Tensor, maps: Tensor, inside: Tensor) -> Tensor:
    """Cosine between found and true maps at each voxel of the head; the common phase is the image's."""
    return (found.conj() * maps).sum(0).abs()[..., 0][inside]


@pytest.mark.parametrize("method", ["ESPIRiT", "low-resolution"])
def test_maps_are_near_the_true_ones_inside_the_head(truth: tuple[Tensor, Tensor, Tensor], method: str) -> None:
    if method == "ESPIRiT":
        pytest.importorskip("sigpy", reason="ESPIRiT needs sigpy")
    maps, inside, y = truth
    done = estimate_maps(y, (y != 0).any(0), method)
    assert done.method == method
    torch.testing.assert_close(done.maps.abs().square().sum(0), torch.ones(*PLANE, 1), atol=1e-3, rtol=0)
    near = overlap(done.maps, maps, inside)
    assert float(near.mean()) > 0.99
    assert float(near.quantile(0.02)) > 0.9


def test_they_are_as_near_as_bart_s(truth: tuple[Tensor, Tensor, Tensor], tmp_path: Path) -> None:
    pytest.importorskip("sigpy", reason="ESPIRiT needs sigpy")
    if shutil.which("bart") is None:
        pytest.skip("BART is not installed")
    maps, inside, y = truth
    sizes = " ".join(str(n) for n in (*PLANE, 1, COILS, *(1,) * 12))
    (tmp_path / "k.hdr").write_text(f"# Dimensions\n{sizes}\n")
    y[..., 0].permute(1, 2, 0).numpy().ravel(order="F").tofile(tmp_path / "k.cfl")
    subprocess.run(["bart", "ecalib", "-m1", "-r24", "-c0", "k", "s"], cwd=tmp_path, check=True, capture_output=True)
    theirs = np.fromfile(tmp_path / "s.cfl", np.complex64).reshape((*PLANE, COILS), order="F")
    bart = overlap(torch.from_numpy(theirs).permute(2, 0, 1)[..., None], maps, inside).mean()
    ours = overlap(estimate_maps(y, (y != 0).any(0), "ESPIRiT").maps, maps, inside).mean()
    assert float(ours) > float(bart) - 0.005


def test_the_region_is_the_full_middle() -> None:
    taken = torch.zeros(40, 30, dtype=torch.bool)
    taken[::3] = True
    taken[14:26] = True
    assert calibration_region(taken) == (12, 30)
    taken[20, 15] = False
    assert min(calibration_region(taken)) == 0
    assert calibration_region(torch.ones(8, 10, dtype=torch.bool)) == (8, 10)


def test_without_a_full_middle_it_is_said(truth: tuple[Tensor, Tensor, Tensor]) -> None:
    y = truth[2].clone()
    y[:, :, PLANE[1] // 2] = 0
    with pytest.raises(InputError, match="fully sampled middle"):
        estimate_maps(y, (y != 0).any(0))


def test_virtual_coils_keep_what_there_is_to_see(truth: tuple[Tensor, Tensor, Tensor]) -> None:
    y = truth[2]
    mixed = torch.einsum("vc,cijk->vijk", torch.randn(20, COILS, dtype=y.dtype), y)
    fewer, mixing, share = compress(mixed, COILS)
    assert share == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(torch.einsum("vc,cijk->vijk", mixing, mixed), fewer)
    assert float(fewer.norm()) == pytest.approx(float(mixed.norm()), rel=1e-3)
    assert compress(mixed, 2)[2] < share
