"""What every format says of a synthetic item, in the same words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medidiff.export.bids import ANAT_SUFFIXES, Kind
from medidiff.synthetic.marks import SENTENCE
from medidiff.synthetic.records import FileRecord, Item
from medidiff.synthetic.stored import SyntheticSet
from medidiff.volume import Modality


def item_facts(synthetic: SyntheticSet, item: Item) -> dict[str, Any]:
    """The fields of a sidecar."""
    drawn, public = item.metadata, sorted(synthetic.record.public_conditions)
    facts: dict[str, Any] = {
        "SyntheticData": True,
        "Description": SENTENCE,
        "Modality": item.modality.value,
        "GeneratedBy": generated_by(synthetic),
        "SyntheticItem": item.id,
        "SyntheticSetSHA256": synthetic.sha256,
        "Seed": item.seed,
        "Condition": {name: item.condition[name] for name in public if name in item.condition} or None,
        "SampledAgeBand": drawn.age_band,
        "SampledSex": drawn.sex,
        "SampledSite": drawn.site,
    }
    return {name: value for name, value in facts.items() if value is not None}


def generated_by(synthetic: SyntheticSet) -> list[dict[str, str]]:
    """BIDS's GeneratedBy: the generator and the program around it."""
    generator = synthetic.record.generator
    return [
        {
            "Name": "medidiff",
            "Version": synthetic.record.code_version,
            "Description": f"Synthesizing Equipment: samples of the generative model {generator.name}, "
            f"SHA-256 {generator.sha256}",
        }
    ]


def kind_of(item: Item) -> Kind:
    """Where BIDS has the image; ``other`` for a contrast that it does not know."""
    if item.modality is Modality.CT:
        return Kind("ct", "ct")
    return Kind("anat", item.suffix) if item.suffix in ANAT_SUFFIXES else Kind("other", item.suffix)


def copy_file(synthetic: SyntheticSet, file: FileRecord, target: Path) -> None:
    """Copy a file of the set, checked once more on its way.

    Raises:
        InputError: it is not what the record says.
    """
    content = synthetic.read(file)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def write_json(value: Any, target: Path) -> None:
    """JSON for people and programs; the same value gives the same bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
