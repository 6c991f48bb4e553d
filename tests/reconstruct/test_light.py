"""What is done without a network, and what is never loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from medidiff.geometry import Geometry
from medidiff.io import write_volume
from medidiff.reconstruct import ReconstructOptions, reconstruct
from tests.reconstruct.scans import CASES, scan


def test_fast_is_the_classical_answer(tmp_path: Path) -> None:
    write_volume(scan(CASES["axial"].geometry), tmp_path / "a.nii")
    done = reconstruct(tmp_path / "a.nii", tmp_path / "b.nii", ReconstructOptions(fast=True))
    assert done.record["model"] is None
    assert done.record["data_consistency_nrmse"] < 4e-3
    restored, baseline = (done.volumes[name].data for name in ("restored", "baseline"))
    # Positivity is all that is added to cubic and projection.
    assert np.abs(restored - baseline.clip(min=0)).max() < 0.2 * baseline.max()
    assert np.corrcoef(restored.ravel(), baseline.ravel())[0, 1] > 0.999


def test_without_a_network_nothing_is_said_of_its_training(model: str, tmp_path: Path) -> None:
    """A factor of 12 is beyond the prior; few slices are a doubt about the data whoever restores them."""
    write_volume(scan(Geometry(np.diag([1.0, 1.0, 12.0, 1.0]), (16, 16, 3))), tmp_path / "a.nii")
    told = {
        fast: reconstruct(
            tmp_path / "a.nii", tmp_path / "b.nii", ReconstructOptions(fast=fast, model=None if fast else model)
        ).record["warnings"]
        for fast in (True, False)
    }
    assert [text.split()[0] for text in told[True]] == ["Only"]
    assert any("trained" in text for text in told[False])


def test_it_runs_without_monai_and_refuses_without_torch(model: str, tmp_path: Path) -> None:
    write_volume(scan(CASES["axial"].geometry), tmp_path / "scan.nii")
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from medidiff.errors import MedidiffError\n"
        "from medidiff.reconstruct import ReconstructOptions, reconstruct\n"
        f"here, model = Path({str(tmp_path)!r}), {model!r}\n"
        "wrong = [('nothing.nii', 'o.nii', model), ('scan.nii', 'o.jpg', model), ('scan.nii', 'o.nii', 'no-such')]\n"
        "for source, target, name in wrong:\n"
        "    try:\n"
        "        reconstruct(here / source, here / target, ReconstructOptions(model=name))\n"
        "    except MedidiffError:\n"
        "        assert 'torch' not in sys.modules\n"
        "    else:\n"
        "        raise SystemExit(f'{source} to {target} was accepted')\n"
        "reconstruct(here / 'scan.nii', here / 'o.nii', ReconstructOptions(model=model))\n"
        "assert 'torch' in sys.modules and 'monai' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
