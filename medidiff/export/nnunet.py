"""A synthetic set as an nnU-Net v2 raw dataset: ``DatasetNNN_Name`` with images, label maps and ``dataset.json``.

Source: nnU-Net v2 documentation, dataset_format.md; its integrity rules: a label map for every image, of the same shape
and place; label values consecutive from 0 with ``background`` as 0; one file ending; as many cases as ``numTraining``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medidiff.errors import ConfigError
from medidiff.export.synthetic_facts import copy_file, generated_by, write_json
from medidiff.synthetic.marks import SENTENCE
from medidiff.synthetic.records import slug
from medidiff.synthetic.stored import SyntheticSet
from medidiff.volume import Modality

# Numbers below 500 are in use by others' datasets; a user may rename the folder.
DEFAULT_NUMBER = 900


def check_nnunet(synthetic: SyntheticSet) -> None:
    """Refuse what nnU-Net could not train on, before anything is written.

    Raises:
        ConfigError: there are no label maps, their values have gaps, or channels differ.
    """
    record = synthetic.record
    if not record.labels or any(item.label is None for item in synthetic.items):
        raise ConfigError("the format nnunet needs a label map for every item; leave nnunet out of --format")
    values = [entry.value for entry in record.labels]
    if values != list(range(1, len(values) + 1)):
        raise ConfigError(f"the format nnunet needs label values 1, 2, 3 ... without gaps, the set has {values}")
    kinds = {(item.modality, item.suffix) for item in synthetic.items}
    if len(kinds) > 1:
        raise ConfigError(f"the format nnunet needs one contrast in all items, the set has {len(kinds)}")


def write_nnunet(synthetic: SyntheticSet, target: Path, number: int = DEFAULT_NUMBER) -> None:
    """Write ``target/DatasetNNN_Name``.

    Raises:
        ConfigError: as ``check_nnunet``.
        InputError: a file of the set is not what its record says.
    """
    check_nnunet(synthetic)
    record = synthetic.record
    folder = target / f"Dataset{number:03d}_{slug(record.name)}"
    for item in synthetic.items:
        copy_file(synthetic, item.image, folder / "imagesTr" / f"{item.id}_0000.nii.gz")
        if item.label is not None:
            copy_file(synthetic, item.label, folder / "labelsTr" / f"{item.id}.nii.gz")
    first = synthetic.items[0]
    # nnU-Net normalises CT by the statistics of the dataset if the channel is called so, all else by the image.
    channel = "CT" if first.modality is Modality.CT else first.suffix
    description: dict[str, Any] = {
        "channel_names": {"0": channel},
        "labels": {"background": 0} | {entry.name: entry.value for entry in record.labels},
        "numTraining": len(synthetic.items),
        "file_ending": ".nii.gz",
        "name": record.name,
        "description": f"{SENTENCE} {record.description}",
        "licence": record.licence,
        "reference": "; ".join(source.name for source in record.sources),
        "release": record.created.date().isoformat(),
        "synthetic": True,
        "generated_by": generated_by(synthetic),
        "set_sha256": synthetic.sha256,
    }
    write_json(description, folder / "dataset.json")
