"""Configuration: what goes in comes out, and what is wrong is said with its line."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, model_validator

from medidiff.config import Config, config_digest, dump_config, load_config, parse_config, read_kind
from medidiff.errors import ConfigError, InputError


class Box(Config):
    kind: Literal["box"] = "box"
    factor: int = Field(ge=2)
    gap: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _gap_fits(self) -> Box:
        if self.gap >= self.factor:
            raise ValueError("the gap is as wide as the slice")
        return self


class Gaussian(Config):
    kind: Literal["gaussian"] = "gaussian"
    fwhm_mm: float = Field(gt=0)


class Scan(Config):
    """A schema with all that real ones have: numbers, text, a list, a choice, a rule over two fields."""

    kind: Literal["scan"] = "scan"
    name: str = "head"
    steps: int = Field(default=10, ge=1)
    warmup: int = Field(default=0, ge=0)
    rate: float = Field(default=1e-4, gt=0)
    profiles: tuple[Annotated[Box | Gaussian, Field(discriminator="kind")], ...] = ()

    @model_validator(mode="after")
    def _order(self) -> Scan:
        if self.warmup > self.steps:
            raise ValueError(f"warmup ({self.warmup}) is longer than steps ({self.steps})")
        return self


boxes = st.builds(Box, factor=st.integers(2, 9))
gaussians = st.builds(Gaussian, fwhm_mm=st.floats(1e-300, 1e300))
scans = st.builds(
    Scan,
    name=st.text(st.characters(codec="utf-8", exclude_categories=("Cs",))),
    steps=st.integers(50, 10**30),
    warmup=st.integers(0, 50),
    rate=st.floats(1e-300, 1e300),
    profiles=st.lists(boxes | gaussians, max_size=4).map(tuple),
)


@given(scan=scans)
def test_what_is_dumped_loads_to_an_equal_object(scan: Scan) -> None:
    again = parse_config(dump_config(scan), Scan)
    assert again == scan
    assert config_digest(again) == config_digest(scan)


@given(scan=scans)
def test_the_digest_ignores_order_and_defaults_left_out(scan: Scan) -> None:
    values, defaults = scan.model_dump(mode="json"), Scan().model_dump(mode="json")
    backwards = {key: values[key] for key in reversed(values) if values[key] != defaults[key]}
    text = "# a comment\nkind: scan\n" + yaml.safe_dump(backwards, sort_keys=False, allow_unicode=True)
    assert config_digest(parse_config(text, Scan)) == config_digest(scan)


def test_the_digest_changes_with_any_value() -> None:
    variants = [Scan(), Scan(name="knee"), Scan(steps=11), Scan(rate=2e-4), Scan(profiles=(Box(factor=2),))]
    assert len({config_digest(variant) for variant in variants}) == len(variants)


def test_the_digest_is_the_same_in_every_release() -> None:
    # It is written beside results: a change of it would make equal configs look different.
    assert config_digest(Box(factor=4)) == hashlib.sha256(b'{"factor":4,"gap":0,"kind":"box"}').hexdigest()


PROBLEMS = {
    "too small": ("kind: scan\n\nsteps: 0\n", "f.yaml:3: steps: Input should be greater than or equal to 1, got 0"),
    "wrong type": ("name: x\nsteps: many\n", "f.yaml:2: steps: Input should be a valid integer"),
    "unknown key": ("name: x\nstpes: 5\n", "f.yaml:2: stpes: no such setting"),
    "inside a list": (
        "profiles:\n  - kind: box\n    factor: 4\n  - kind: gaussian\n    fwhm_mm: -1\n",
        "f.yaml:5: profiles[1].fwhm_mm: Input should be greater than 0, got -1",
    ),
    "a rule inside a choice": (
        "name: x\nprofiles:\n  - {kind: box, factor: 2, gap: 2}\n",
        "f.yaml:3: profiles[0]: the gap is as wide as the slice",
    ),
    "missing": ("profiles:\n  - kind: box\n", "f.yaml:2: profiles[0].factor: Field required"),
    "unknown kind": ("profiles:\n  - kind: cone\n", "f.yaml:2: profiles[0]: Input tag 'cone'"),
    "no kind": ("profiles:\n  - factor: 3\n", "f.yaml:2: profiles[0]: Unable to extract tag"),
    "a rule over two": ("steps: 2\nwarmup: 3\n", "f.yaml:1: warmup (3) is longer than steps (2)"),
    "given twice": ("steps: 2\nname: x\nsteps: 3\n", "f.yaml:3: steps: given twice"),
    "no YAML": ("steps: 2\nname: [a, b\n", "f.yaml:3: "),
    "no mapping": ("- steps\n", "f.yaml:1: expected `name: value` lines"),
    "empty": ("", "f.yaml:1: expected `name: value` lines"),
    "a bomb of aliases": ("a: &a [x, x]\nb: &b [*a, *a]\n", "f.yaml:1: aliases (&, *) are not used here"),
    "endless": ("profiles: &p [*p]\n", "f.yaml:1: aliases (&, *) are not used here"),
    "a Python object": ("name: !!python/object/apply:os.system [ls]\n", "f.yaml:1: could not determine a constructor"),
    "infinite": ("rate: .inf\n", "f.yaml:1: rate: Input should be a finite number"),
    "no text as a key": ("2: 3\n", "f.yaml:1: a key must be text, got 2"),
    "nested without end": ("name: x\nsteps: " + 5000 * "[", "f.yaml:2: nested deeper than 64 levels"),
    "nested line by line": ("".join(f"{' ' * n}a:\n" for n in range(70)), "f.yaml:64: nested deeper than 64 levels"),
    "a number without end": ("name: x\nsteps: " + 6000 * "1", "f.yaml:2: a number of more than 400 characters"),
    "a hexadecimal number without end": ("steps: 0x" + 6000 * "f", "f.yaml:1: a number of more than 400 characters"),
    "a number without end as a key": ("? " + 6000 * "1" + "\n: 1", "f.yaml:1: a number of more than 400 characters"),
    "no date": ("name: 2020-13-45\n", "f.yaml:1: not a valid timestamp"),
    "no number": ('name: !!int ""\n', "f.yaml:1: not a valid int"),
    "no truth": ("name: !!bool x\n", "f.yaml:1: not a valid bool"),
    "a character that is none": (
        "name: x\nsteps: 1\0",
        "f.yaml:2: not YAML: special characters are not allowed (U+0000)",
    ),
}


@pytest.mark.parametrize(("text", "message"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_a_problem_is_told_with_file_line_and_key(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, Scan, source="f.yaml")
    assert message in str(caught.value)


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config("steps: 0\nrate: -1\n", Scan, source="f.yaml")
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == ["f.yaml:1", "f.yaml:2"]


def test_numbers_without_a_dot_are_numbers() -> None:
    assert parse_config("rate: 1e-3\nsteps: 7\n", Scan) == Scan(rate=1e-3, steps=7)


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Box(factor=3).factor = 4  # type: ignore[misc]


def test_what_is_no_plain_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", Path("/dev/zero")):
        with pytest.raises(InputError, match="is a device, pipe or socket, not a file"):
            read_kind(path)
    with pytest.raises(InputError, match="is a folder"):
        read_kind(tmp_path)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "scan.yaml"
    path.write_text("kind: scan\nname: Füße\n", encoding="utf-8")
    assert load_config(path, Scan) == Scan(name="Füße")
    assert read_kind(path) == "scan"
    path.write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(ConfigError, match="not a text file in UTF-8"):
        load_config(path, Scan)
    path.write_text("name: x\n")
    with pytest.raises(ConfigError, match="expected a word that says what this configures"):
        read_kind(path)
    path.write_text("#" * (1 << 20) + "\n")
    with pytest.raises(ConfigError, match="larger than"):
        load_config(path, Scan)
    with pytest.raises(InputError, match="there is no file"):
        load_config(tmp_path / "absent.yaml", Scan)
