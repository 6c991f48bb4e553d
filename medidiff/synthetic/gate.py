"""Whether a synthetic set may leave the house: every reason against it, never just the first."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from medidiff.errors import InputError
from medidiff.synthetic.metadata import QUASI_IDENTIFIERS, K, rare_combinations
from medidiff.synthetic.reports import FILES, Family, Outcome, PrivacyReport, QualityReport, R, read_report
from medidiff.synthetic.stored import ITEMS, PRIVACY, QUALITY, SET, SyntheticSet, read_set_record

# What a report must at least have judged. A report that never looked for copies does not open the gate.
REQUIRED: dict[type[QualityReport | PrivacyReport], tuple[Family, ...]] = {
    QualityReport: (Family.FIDELITY, Family.DIVERSITY),
    PrivacyReport: (Family.MEMORISATION, Family.MEMBERSHIP),
}
# No measurement supports it, so no release of ours says it (nor its opposite).
FORBIDDEN_WORD = "anonymous"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the gate found.

    Args:
        reasons: Against a release; empty if it may go out.
        synthetic: The set; None if its records cannot be read.
        quality, privacy: The reports; None if missing or damaged.
    """

    reasons: tuple[str, ...]
    synthetic: SyntheticSet | None
    quality: QualityReport | None
    privacy: PrivacyReport | None


def judge(folder: Path) -> Judgement:
    """Look at a set and at what was found out about it.

    Raises:
        InputError: there is no finished set in the folder.
    """
    sha256 = hashlib.sha256(read_set_record(folder)).hexdigest()
    reasons: list[str] = []
    synthetic = None
    try:
        synthetic = SyntheticSet.open(folder)
        reasons += synthetic.faults()
        reasons += _metadata_reasons(synthetic)
        reasons += _variation_reasons(synthetic)
    except InputError as error:
        reasons.append(str(error).removeprefix(f"{folder}/"))
    quality, told = _report(QualityReport, folder, sha256, synthetic)
    reasons += told
    privacy, told = _report(PrivacyReport, folder, sha256, synthetic)
    reasons += told
    if privacy and synthetic and privacy.training_split_sha256 != synthetic.record.training_split_sha256:
        reasons.append(f"{PRIVACY}: speaks of another training split than the one that the generator was trained on")
    reasons += _word_reasons(folder)
    return Judgement(tuple(reasons), synthetic, quality, privacy)


def _report(kind: type[R], folder: Path, sha256: str, synthetic: SyntheticSet | None) -> tuple[R | None, list[str]]:
    name = FILES[kind]
    try:
        report = read_report(kind, folder)
    except InputError as error:
        return None, [f"{error}; have the set examined"]
    reasons = []
    if report.set_sha256 != sha256:
        reasons.append(f"{name}: speaks of another set, or of this one before it was changed; have it examined again")
    if synthetic and report.created < synthetic.record.created:
        reasons.append(f"{name}: older than the set; have the set examined again")
    if report.verdict is not Outcome.PASSED:
        reasons += [f"{name}: {report.verdict.value}: {reason}" for reason in report.reasons]
    judged = {metric.family for metric in report.metrics if metric.outcome is not None}
    reasons += [f"{name}: nothing in it judges {family.value}" for family in REQUIRED[kind] if family not in judged]
    return report, reasons


def _metadata_reasons(synthetic: SyntheticSet) -> list[str]:
    names = ", ".join(QUASI_IDENTIFIERS)
    return [
        f"metadata: only {count} items share ({', '.join(found)}) of ({names}); {K} are needed"
        for found, count in rare_combinations(synthetic.items)
    ]


def _variation_reasons(synthetic: SyntheticSet) -> list[str]:
    """An audit holds a set against the people of training; whose scan was varied is not among them."""
    varied = "vary_sha256" in synthetic.record.generator.sampler
    if varied or any("variation" in item.condition for item in synthetic.items):
        return [f"{SET}: variations of one given scan: they show a person whom no audit compared them with"]
    return []


def _word_reasons(folder: Path) -> list[str]:
    reasons = []
    for name in (SET, ITEMS, QUALITY, PRIVACY):
        path = folder / name
        if path.is_file() and FORBIDDEN_WORD.encode() in path.read_bytes().lower():
            reasons.append(f"{name}: calls the data by a word that nothing measured supports; say what was measured")
    return reasons
