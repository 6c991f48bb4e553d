"""Configuration: YAML in, frozen objects out, and back.

A config is a tree of ``Config`` models. Where there is a choice, the alternatives are told apart by a ``kind:`` key:

    Profile = Annotated[Box | Gaussian, Field(discriminator="kind")]

Every message about a file says where in it: ``train.yaml:12: optimizer.steps: ...``.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from medidiff.errors import ConfigError
from medidiff.io.source import open_stream

# A config is written by hand; anything larger is another file by mistake.
MAX_BYTES = 1 << 20
MAX_DEPTH, MAX_DIGITS = 64, 400


class Config(BaseModel):
    """Base of every configuration object: immutable, no unknown keys, defaults checked like given values.

    Infinities and NaN are refused: they are not JSON, so they would not survive a checkpoint's header.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


C = TypeVar("C", bound=Config)


def load_config(path: Path, model: type[C]) -> C:
    """Read a YAML file as a configuration.

    Raises:
        InputError: the file cannot be read.
        ConfigError: the file is not YAML, or its content does not fit; the message gives file and line of each problem.
    """
    return parse_config(_read(path), model, source=str(path))


def parse_config(text: str, model: type[C], source: str = "config") -> C:
    """Read YAML text as a configuration; ``source`` names it in messages.

    Raises:
        ConfigError: as for ``load_config``.
    """
    tree = _compose(text, source)
    content = _construct(tree, source)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = _first_hand(error.errors(include_url=False))
        lines = [_describe(problem, tree, source) for problem in problems]
        raise ConfigError("\n".join(lines)) from None


def _first_hand(problems: list[ErrorDetails]) -> list[ErrorDetails]:
    """Without what only follows: a list whose items are wrong is then found to be too short as well."""
    places = [problem["loc"] for problem in problems]
    return [
        problem
        for problem in problems
        if not (
            problem["type"] == "too_short"
            and any(
                len(place) > len(problem["loc"]) and place[: len(problem["loc"])] == problem["loc"] for place in places
            )
        )
    ]


def dump_config(config: Config) -> str:
    """The resolved configuration, defaults included, as YAML that loads to an equal object."""
    values = config.model_dump(mode="json")
    # Flow style for the innermost level keeps three numbers on one line.
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)


def config_digest(config: Config) -> str:
    """SHA-256 of the resolved configuration, in hex. Order and comments of the file do not matter."""
    canonical = json.dumps(
        config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def read_kind(path: Path) -> str:
    """The ``kind:`` at the top of a YAML file, which says what the file configures.

    Raises:
        InputError: the file cannot be read.
        ConfigError: it is not a YAML mapping with a text under ``kind``.
    """
    content = _construct(_compose(_read(path), str(path)), str(path))
    kind = content.get("kind")
    if not isinstance(kind, str):
        raise ConfigError(f"{path}:1: kind: expected a word that says what this configures, such as `kind: train`")
    return kind


def _read(path: Path) -> str:
    with open_stream(path) as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes, so this is no configuration")
    try:
        return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8").read()
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8") from None


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, corrected: repeated keys, floats such as ``1e-4``, depths and numbers without end."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.depth >= MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {MAX_DEPTH} levels", problem_mark=mark)
        self.depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        kind = node.tag.rpartition(":")[2]
        if kind in ("int", "float") and len(node.value) > MAX_DIGITS:
            problem = f"a number of more than {MAX_DIGITS} characters"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError):  # PyYAML believes that what looks like a date is one
            raise yaml.MarkedYAMLError(problem=f"not a valid {kind}", problem_mark=node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(problem=f"a key must be text, got {key!r}", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"{key}: given twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1, which PyYAML implements, reads 1e-4 as text because it has no dot; YAML 1.2 and every reader mean a number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _compose(text: str, source: str) -> yaml.MappingNode:
    try:
        node = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, source) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{source}:{line}: not YAML: {error.reason} (U+{error.character:04X})") from None
    if not isinstance(node, yaml.MappingNode):
        line = node.start_mark.line + 1 if node else 1
        raise ConfigError(f"{source}:{line}: expected `name: value` lines")
    _refuse_aliases(node, source)
    return node


def _construct(node: yaml.MappingNode, source: str) -> dict[str, Any]:
    loader = _Loader("")
    try:
        return dict(loader.construct_document(node))
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, source) from None
    finally:
        loader.dispose()


def _refuse_aliases(root: yaml.Node, source: str) -> None:
    """Nodes that are used twice are how a small YAML file becomes a huge or endless object."""
    seen: set[int] = set()
    pending: list[yaml.Node] = [root]
    while pending:
        node = pending.pop()
        if id(node) in seen:
            raise ConfigError(f"{source}:{node.start_mark.line + 1}: aliases (&, *) are not used here: write it out")
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            pending += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            pending += node.value


def _syntax_error(error: yaml.MarkedYAMLError, source: str) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    place = f"{source}:{mark.line + 1}" if mark else source
    return ConfigError(f"{place}: {error.problem or error.context}")


def _describe(problem: ErrorDetails, tree: yaml.Node, source: str) -> str:
    """One problem as a line: where, which key, what was expected, what was found."""
    path, line = _locate(problem["loc"], tree, missing=problem["type"] == "missing")
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = "no such setting"
    elif problem["type"] != "missing":
        message += f", got {_short(problem['input'])}"
    return f"{source}:{line}: {path}: {message}" if path else f"{source}:{line}: {message}"


def _locate(location: Sequence[int | str], tree: yaml.Node, *, missing: bool) -> tuple[str, int]:
    """The key as written in the file, and its line.

    Pydantic's location also names the alternative of a union (``optimizer.adam.lr``), which the file does not have.
    """
    node, line, path = tree, tree.start_mark.line + 1, ""
    for depth, part in enumerate(location):
        found = _child(node, part)
        if found is not None:
            node, line = found
            path += f"[{part}]" if isinstance(part, int) else f".{part}"
        elif missing and depth == len(location) - 1:
            path += f".{part}"
    return path.removeprefix("."), line


def _child(node: yaml.Node, part: int | str) -> tuple[yaml.Node, int] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == part:
                return value, key.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part].start_mark.line + 1
    return None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
