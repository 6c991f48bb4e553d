"""What the record of a set says before the first item is drawn."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import ValidationError

from medidiff import __version__
from medidiff.config import config_digest
from medidiff.diffusion.generator import GIVEN_ON_CARD, GeneratorSpec
from medidiff.errors import CheckpointError, ConfigError
from medidiff.generation.draw import level_of
from medidiff.io.source import file_sha256
from medidiff.models import find_model
from medidiff.synthesize.options import SynthesizeOptions
from medidiff.synthesize.wishes import Wishes
from medidiff.synthetic import Generator, SetPlan

P = TypeVar("P", list[Any], dict[str, Any])


def make_plan(
    options: SynthesizeOptions, name: str, sha256: str, card: dict[str, Any], spec: GeneratorSpec, wishes: Wishes
) -> SetPlan:
    missing = [key for key in (*GIVEN_ON_CARD, "training_split_sha256") if not card.get(key)]
    if missing:
        raise CheckpointError(
            f"the card of the generator {name} does not tell {', '.join(missing)}: no set made with it could go out"
        )
    # What the files are called, and how many items are drawn at once, does not change what is drawn.
    same = options.model_copy(update={"batch": 1, "device": None, "model": name, "labels": None, "vary": None})
    sampler: dict[str, Any] = {
        "steps": options.steps,
        "solver": options.solver,
        "guidance_scale": options.guidance_scale,
        "evaluations": options.evaluations,
        "sigma_min": spec.sigma_min,
        "sigma_max": spec.sigma_max,
        **wishes.digests,
    }
    if options.upsample is not None:
        found = find_model(options.upsample)
        sampler |= {"upsample": found.stem, "upsample_sha256": file_sha256(found), "spacing_mm": options.spacing}
    if options.vary is not None:
        sampler |= {"strength": options.strength, "begins_at_sigma": round(level_of(spec, options.strength), 6)}
    codes = _part(card, name, "label_codes", dict)
    # As the card has them: where one does not fit, the message then says where it stands.
    labels: Any = [{"value": each.value, "name": each.name, "code": codes.get(str(each.value))} for each in spec.labels]
    try:
        return SetPlan(
            name=options.name,
            description=_description(options, name, card),
            note=_note(options),
            created=begun(),
            code_version=__version__,
            config_sha256=config_digest(same),
            seed=options.seed,
            generator=Generator(name=name, sha256=sha256, card=card, sampler=sampler),
            sources=card["sources"],
            training_split_sha256=card["training_split_sha256"],
            licence=card["samples_licence"],
            labels=labels,
            metadata_model=options.metadata.line(),
            public_conditions=tuple(sorted(map(str, _part(card, name, "public_conditions", list)))),
            body_part=card.get("body_part"),
            skull_stripped=bool(card.get("skull_stripped", False)),
        )
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, problem["loc"]))
        raise CheckpointError(f"the card of the generator {name}: {place}: {problem['msg']}") from None


def _part(card: dict[str, Any], name: str, key: str, kind: type[P]) -> P:
    found = card.get(key, kind())
    if not isinstance(found, kind):
        raise CheckpointError(f"the card of the generator {name}: {key}: expected a {kind.__name__}, got {found!r:.60}")
    return found


def _description(options: SynthesizeOptions, name: str, card: dict[str, Any]) -> str:
    """What a set shows. A generator's summary may say "of nobody", which is not so where somebody's scan was given."""
    if options.labels is not None or options.vary is not None:
        given = "Variations of one given scan" if options.labels is None else "Images drawn for given label maps"
        return f"{options.description} {given}." if options.description else f"{given}, by the generator {name}."
    what = str(card.get("summary", f"volumes drawn from the generator {name}"))
    return options.description or f"{what}. Images and label maps drawn together."


def _note(options: SynthesizeOptions) -> str:
    if options.labels is not None:
        return "The label maps were given, not drawn: where they come from people, they show those people's anatomy."
    if options.vary is not None:
        return "Every item is a variation of one given scan and shows what that scan shows."
    return ""


def begun() -> datetime:
    """Now, or what SOURCE_DATE_EPOCH says: then two runs give one set, hash and all.

    Raises:
        ConfigError: it says no moment.
    Source: https://reproducible-builds.org/specs/source-date-epoch
    """
    told = os.environ.get("SOURCE_DATE_EPOCH")
    if not told:
        return datetime.now(UTC)
    try:
        return datetime.fromtimestamp(int(told), UTC)
    except (ValueError, OverflowError, OSError):
        raise ConfigError(f"SOURCE_DATE_EPOCH: expected seconds since 1970, found {told[:40]!r}") from None
