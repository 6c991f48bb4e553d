"""Fixtures that every room shares: real volumes, bounded threads, Hypothesis profiles."""

from __future__ import annotations

import os

# Before torch or NumPy is loaded: two spinning thread pools on two cores can be nine times slower than one thread.
os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
os.environ["OPENBLAS_NUM_THREADS"] = os.environ.get("OPENBLAS_NUM_THREADS", "1")
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["MPLBACKEND"] = "Agg"
# No test talks to the outside, telemetry included.
os.environ["DO_NOT_TRACK"] = "1"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"

import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

from medidiff.geometry import Geometry
from medidiff.volume import Modality, Volume
from tests import shapes

# Where signatures state shapes; these modules are loaded after this line, by the tests themselves.
ENGINE = [
    "medidiff.operators",
    "medidiff.guidance",
    *(f"medidiff.diffusion.{name}" for name in ("denoiser", "haar", "loss", "path", "sampler", "tiling")),
]
install_import_hook(ENGINE, f"{shapes.__name__}.check")

REPOSITORY = Path(__file__).resolve().parents[1]

# "ci" draws the same examples every time, so that a red build is reproducible; "deep" is for a developer's evening.
settings.register_profile(
    "ci", derandomize=True, max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("deep", max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True)
def _process_state() -> Iterator[None]:
    """The command line's boundary owns the process: give back what it set."""
    handler, show = signal.getsignal(signal.SIGTERM), warnings.showwarning
    yield
    signal.signal(signal.SIGTERM, handler)
    warnings.showwarning = show
    if (boundary := sys.modules.get("medidiff.cli.boundary")) is not None:
        boundary.debug = False
    if (console := sys.modules.get("medidiff.cli.console")) is not None:
        console.configure(quiet=False)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real volumes and DICOM series that lie beside the checkout and are never committed."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("the folder `shared` with real volumes is not beside the repository")
    return folder


@pytest.fixture(scope="session")
def mni_path() -> Path:
    """The MNI152 T1 at 1 mm that comes inside nilearn's wheel, a NIfTI file."""
    from nilearn.datasets import struct

    return Path(struct.MNI152_FILE_PATH)


@pytest.fixture(scope="session")
def mni(mni_path: Path) -> Volume:
    """The MNI152 T1 at 1 mm as a volume, shape (1, 197, 233, 189), float32. Read only: do not write into it."""
    import nibabel

    image = nibabel.load(mni_path)
    data = np.asarray(image.dataobj, dtype=np.float32)[None]
    data.setflags(write=False)
    return Volume(data, Geometry(image.affine, image.shape), Modality.MR)
