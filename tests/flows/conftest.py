"""One Prefect server for all flows of a session: it takes longer to start than any of them to run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from prefect import State

from flows.engine.environment import CONFIGS
from flows.engine.hidden import KeepBack
from medidiff.geometry import Geometry
from medidiff.io import write_volume
from medidiff.volume import Volume
from tests.flows.plans import RECONSTRUCT


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """Prefect's own server for tests, with a database of its own."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=900):
        yield


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    """What flows do to the loggers of their process is undone: it is other tests' process as well."""
    yield
    logging.captureWarnings(capture=False)
    for handler in logging.getLogger().handlers:
        for each in [each for each in handler.filters if isinstance(each, KeepBack)]:
            handler.removeFilter(each)


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which flows look for what they are told."""
    folder = tmp_path / "configs"
    folder.mkdir()
    monkeypatch.setenv(CONFIGS, str(folder))
    return folder


@pytest.fixture(scope="session")
def small_head(mni: Volume) -> Volume:
    """The packaged head with 8 mm slices of 4 mm voxels, shape (1, 50, 59, 24)."""
    data = np.ascontiguousarray(mni.data[:, ::4, ::4, ::8])
    return Volume(data, Geometry(mni.geometry.affine @ np.diag([4.0, 4, 8, 1]), data.shape[1:]))  # type: ignore[arg-type]


@pytest.fixture
def heads(tmp_path: Path, small_head: Volume) -> Path:
    """Two scans in a folder below another."""
    folder = tmp_path / "scans" / "ward"
    folder.mkdir(parents=True)
    for number, name in enumerate(("one", "two")):
        data = small_head.data + np.float32(number)
        write_volume(Volume(data, small_head.geometry, small_head.modality), folder / f"{name}.nii.gz")
    return tmp_path / "scans"


@pytest.fixture
def restore(configs: Path, heads: Path, tmp_path: Path) -> Callable[..., State]:
    """Run the reconstruct flow on ``heads``."""

    def run(spacing: float = 4.0) -> State:
        from flows.reconstruct import reconstruct

        text = RECONSTRUCT.format(state=tmp_path / "state", source=heads, output=tmp_path / "out", spacing=spacing)
        (configs / "restore.yaml").write_text(text)
        return reconstruct(config="restore", return_state=True)

    return run
