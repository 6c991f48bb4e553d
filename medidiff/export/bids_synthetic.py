"""A synthetic set as a BIDS derivative dataset: ``desc-synthetic`` in every name, a sidecar beside every image.

Source: BIDS specification 1.10, Derivatives; SNOMED or other codes are not needed by it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medidiff.export.bids import BIDS_VERSION, IGNORED
from medidiff.export.synthetic_facts import copy_file, generated_by, item_facts, kind_of, write_json
from medidiff.synthetic.marks import SENTENCE
from medidiff.synthetic.stored import SyntheticSet

DESC = "desc-synthetic"


def write_bids(synthetic: SyntheticSet, target: Path) -> None:
    """Write the dataset into the folder ``target``.

    Raises:
        InputError: a file of the set is not what its record says.
    """
    target.mkdir(parents=True)
    for item in synthetic.items:
        kind = kind_of(item)
        place = target / f"sub-{item.id}" / kind.datatype
        facts = item_facts(synthetic, item)
        stem = f"sub-{item.id}_{DESC}"
        image = f"{stem}_{kind.suffix}.nii.gz"
        copy_file(synthetic, item.image, place / image)
        skull = {"SkullStripped": synthetic.record.skull_stripped} if kind.datatype == "anat" else {}
        write_json(facts | skull, place / f"{stem}_{kind.suffix}.json")
        if item.label is not None:
            copy_file(synthetic, item.label, place / f"{stem}_dseg.nii.gz")
            reference = f"bids::sub-{item.id}/{kind.datatype}/{image}"
            write_json(facts | {"Manual": False, "SpatialReference": reference}, place / f"{stem}_dseg.json")
    if synthetic.record.labels:
        rows = [f"{entry.value}\t{entry.name}" for entry in synthetic.record.labels]
        _write_text(target / f"{DESC}_dseg.tsv", "\n".join(["index\tname", "0\tbackground", *rows]))
    _write_dataset_files(synthetic, target)
    _write_participants(synthetic, target)


def _write_dataset_files(synthetic: SyntheticSet, target: Path) -> None:
    record = synthetic.record
    sources = [{"URL": s.url} if s.url else {"Version": s.name} for s in record.sources]
    description: dict[str, Any] = {
        "Name": f"{record.name} (synthetic)",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "License": record.licence,
        "GeneratedBy": generated_by(synthetic),
        "SourceDatasets": sources,
        "SyntheticData": True,
    }
    write_json(description, target / "dataset_description.json")
    _write_text(target / ".bidsignore", "\n".join(IGNORED))
    note = f"\n\n{record.note}" if record.note else ""
    text = f"# {record.name}\n\n{SENTENCE}{note}\n\n{record.description}\n\n"
    text += "`participants.tsv` lists the items: their age band and sex are sampled, and nobody's.\n"
    text += "The card, the datasheet, the licences of the sources and both reports lie one folder up in the release."
    _write_text(target / "README.md", text)


def _write_participants(synthetic: SyntheticSet, target: Path) -> None:
    rows = ["participant_id\tsynthetic\tage_band\tsex\tsite"]
    for item in synthetic.items:
        drawn = item.metadata
        cells = (drawn.age_band, drawn.sex, drawn.site)
        rows.append("\t".join([f"sub-{item.id}", "yes", *(cell or "n/a" for cell in cells)]))
    _write_text(target / "participants.tsv", "\n".join(rows))
    meaning = {
        "synthetic": {"Description": SENTENCE, "Levels": {"yes": "a sample of a model"}},
        "age_band": {"Description": "Band that the item's age was sampled in, years"},
        "sex": {"Description": "Sex that the generator was conditioned on, sampled"},
        "site": {"Description": "Centre or class of scanner that the generator was conditioned on, sampled"},
    }
    write_json(meaning, target / "participants.json")


def _write_text(path: Path, text: str) -> None:
    path.write_text(text + "\n", encoding="utf-8")
