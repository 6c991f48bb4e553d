"""Synthetic sets on disk: how they are written, what was found out about them, and whether they may go out.

A set is a folder:

    set.json            what made it, from which data, under which licences; its SHA-256 is the hash of the whole set
    synthetic.jsonl     an item a line; its SHA-256 is in set.json
    images/ID.nii.gz    marked in the header; images/ID.json is the item's line once more, beside its image
    labels/ID.nii.gz    where the set has label maps
    quality.json, privacy.json    what ``evaluate`` and ``audit`` found; not part of the set's hash, which they name
"""

from __future__ import annotations

from medidiff.synthetic.gate import Judgement, judge
from medidiff.synthetic.metadata import QUASI_IDENTIFIERS, K, rare_combinations
from medidiff.synthetic.records import (
    Code,
    Generator,
    Item,
    LabelClass,
    Metadata,
    SetPlan,
    SetRecord,
    Source,
)
from medidiff.synthetic.reports import (
    Family,
    Metric,
    Neighbour,
    Outcome,
    PrivacyReport,
    QualityReport,
    read_report,
    write_report,
)
from medidiff.synthetic.stored import SyntheticSet
from medidiff.synthetic.writer import SyntheticSetWriter

__all__ = [
    "QUASI_IDENTIFIERS",
    "Code",
    "Family",
    "Generator",
    "Item",
    "Judgement",
    "K",
    "LabelClass",
    "Metadata",
    "Metric",
    "Neighbour",
    "Outcome",
    "PrivacyReport",
    "QualityReport",
    "SetPlan",
    "SetRecord",
    "Source",
    "SyntheticSet",
    "SyntheticSetWriter",
    "judge",
    "rare_combinations",
    "read_report",
    "write_report",
]
