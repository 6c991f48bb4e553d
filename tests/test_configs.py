"""Every configuration in the repository loads, and says what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from medidiff.cli.config import SCHEMAS, load
from medidiff.config import Config, config_digest, dump_config, parse_config
from medidiff.errors import ConfigError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("**/*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_loads_and_survives_the_round_trip(path: Path) -> None:
    config = load(path)
    again = parse_config(dump_config(config), type(config))
    assert again == config
    assert config_digest(again) == config_digest(config)


def test_there_are_configs() -> None:
    assert "brain-t1" in [path.stem for path in CONFIGS]


@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_schema_is_named_like_its_kind(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text(f"kind: {kind}\n")
    try:
        config = load(path)
    except ConfigError as error:
        assert "Field required" in str(error)  # noqa: PT017 - either outcome shows that the schema was found
    else:
        assert isinstance(config, Config)


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "brew.yaml"
    path.write_text("kind: coffee\n")
    with pytest.raises(ConfigError, match=r"brew\.yaml: kind: expected one of train.*, got 'coffee'"):
        load(path)
