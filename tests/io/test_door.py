"""The door itself: light, by content, and with limits that follow the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medidiff.errors import BudgetError, InputError
from medidiff.io import probe, read_volume, safety
from medidiff.io.archives import extract_zip
from medidiff.io.formats import looks_like_dicom
from medidiff.io.safety import GIB, MOST_BYTES, check_budget, default_budget, human_bytes


def test_opening_the_door_loads_no_heavy_library(repository: Path) -> None:
    code = (
        "import sys, medidiff.io\n"
        "heavy = {'torch', 'nibabel', 'pydicom', 'nrrd', 'scipy', 'SimpleITK'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_reading_a_nifti_needs_no_torch(repository: Path, mni_path: Path) -> None:
    code = "import sys; from medidiff.io import read_volume; read_volume(sys.argv[1]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(mni_path)], cwd=repository, check=False).returncode == 0


@pytest.mark.parametrize(("free", "budget"), [(8 * GIB, 4 * GIB), (500 * GIB, MOST_BYTES), (0, 0)])
def test_the_budget_follows_free_memory(free: int, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safety, "_available_memory", lambda: free)
    assert default_budget() == budget


def test_the_machine_says_how_much_is_free() -> None:
    assert 0 < default_budget() <= MOST_BYTES


def test_the_budget_is_a_limit_and_no_more() -> None:
    check_budget(1000, "scan.nii", 1000)
    with pytest.raises(BudgetError, match=r"scan\.nii declares 1001 bytes of voxels, the memory budget is 1000 bytes"):
        check_budget(1001, "scan.nii", 1000)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (3 * GIB, "3.0 GiB"), (2**62, "4.1e+03 PiB")],
)
def test_byte_counts_read_well(count: int, text: str) -> None:
    assert human_bytes(count) == text


def test_bare_dicom_data_sets_are_known_and_niftis_are_not(mni_path: Path) -> None:
    explicit = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100" + b"\0" * 200
    implicit = b"\x08\x00\x05\x00\x0a\x00\x00\x00ISO_IR 100" + b"\0" * 200
    part10 = b"\0" * 128 + b"DICM" + b"\0" * 200
    assert all(looks_like_dicom(head) for head in (explicit, implicit, part10))
    assert not looks_like_dicom(b"\x08\x00\xff\xff" + b"\0" * 200)
    assert not looks_like_dicom(b"\x5c\x01\x00\x00" + b"\0" * 400)


def test_a_dicom_folder_comes_through_the_same_door(shared: Path, tmp_path: Path) -> None:
    extract_zip(shared / "dicom" / "ge_t1_3d" / "dicom.zip", tmp_path)
    info, volume = probe(tmp_path), read_volume(tmp_path)
    (reference,) = (shared / "dicom" / "ge_t1_3d" / "ref").glob("*.nii.gz")
    assert (info.format, info.geometry) == ("dicom", volume.geometry)
    # dcm2niix turns the rows over: the two are the same once both lie along R, A, S.
    ours, theirs = volume.reoriented(), read_volume(reference).reoriented()
    assert ours.geometry.distance(theirs.geometry) < 1e-3
    assert np.array_equal(ours.data, theirs.data)
    with pytest.raises(InputError, match=r"the memory budget is 1\.0 MiB"):
        read_volume(tmp_path, budget=2**20)
