"""Small heaps with known content, and what a tree looks like from outside."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy import ndimage

from medidiff.geometry import Geometry
from medidiff.ingest import IngestOptions, IngestResult, ingest
from medidiff.io import write_volume
from medidiff.volume import Modality, Volume
from tests.io.dicom_series import write_series

# No head and no OCR: faces and burned-in text have tests of their own, and take seconds.
PLAIN = IngestOptions(body_part="other", clean_pixels=False)


def body(slices: int = 12, rows: int = 40, columns: int = 36, seed: int = 0) -> NDArray[Any]:
    """A smooth blob with texture and noise on a quiet background, stored numbers, shape (k, rows, columns)."""
    rng = np.random.default_rng(seed)
    k, j, i = np.meshgrid(*[np.linspace(-1, 1, n) for n in (slices, rows, columns)], indexing="ij")
    inside = ndimage.gaussian_filter(((k * 0.8) ** 2 + j**2 + i**2 < 0.7).astype(float), 1)
    texture = ndimage.gaussian_filter(rng.standard_normal((slices, rows, columns)), 2) * 900
    values = inside * (700 + texture) + np.abs(rng.standard_normal((slices, rows, columns))) * 12
    return np.clip(values, 0, 4000).astype(np.uint16)


def patient(identity: str, name: str = "", study: str = "") -> Callable[[Dataset, int], None]:
    """A change for ``write_series``: whose scan it is."""

    def change(dataset: Dataset, k: int) -> None:
        del k
        dataset.PatientID = identity
        dataset.PatientName = name or f"Name^{identity}"
        if study:
            dataset.StudyInstanceUID = study

    return change


def series(folder: Path, identity: str = "P-1001", seed: int = 0, **more: Any) -> list[Path]:
    """A series of one patient that the gate lets through."""
    return write_series(folder, body(seed=seed), change=patient(identity), prefix=f"s{seed}", **more)


def nifti(path: Path, seed: int = 50, modality: Modality = Modality.MR) -> Volume:
    """A volume file of the same kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = body(16, 44, 40, seed).astype(np.float32).transpose(2, 1, 0)[None]
    volume = Volume(data, Geometry(np.diag([2.0, 2.0, 3.0, 1.0]), (40, 44, 16)), modality)
    write_volume(volume, path, dtype=np.int16)
    return volume


def run(sources: list[Path] | Path, dataset: Path, options: IngestOptions = PLAIN) -> IngestResult:
    return ingest(sources if isinstance(sources, list) else [sources], dataset, options)


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder and the hash of its content."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
