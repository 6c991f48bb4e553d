"""One small head for the whole room."""

from __future__ import annotations

import numpy as np
import pytest

from medidiff.volume import Volume
from tests.training.scans import small_head


@pytest.fixture(scope="session")
def head(mni: Volume) -> np.ndarray:
    data = small_head(mni)
    data.setflags(write=False)
    return data
