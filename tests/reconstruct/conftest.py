"""A network that has learned nothing: what is promised of any network must hold for it."""

from __future__ import annotations

import pytest

from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors"))
