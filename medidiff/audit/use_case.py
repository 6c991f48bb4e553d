"""The use case *audit*: what a synthetic set leaks of the people its generator learned from.

    result = audit("sets/hippocampus", AuditOptions(training=Cohort(...), held_out=Cohort(...), model="hippocampus"))

Copies of single people are sought in the image, in the features of an encoder, and in the label maps; the set as a
whole is held against both groups of people; and attacks try to tell who was trained on. The report goes into the
set's folder, where ``release`` looks for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from medidiff import __version__
from medidiff.audit.attacks import membership
from medidiff.audit.figures import copies_figure, even_figure
from medidiff.audit.neighbours import neighbours
from medidiff.audit.options import AuditOptions, AuditResult
from medidiff.audit.remarks import guarantee, notes, reasons
from medidiff.audit.sides import STEPS, Work, prepare
from medidiff.audit.spaces import find_spaces
from medidiff.config import config_digest
from medidiff.privacy.leakage.examine import Space, judge_copies, set_level
from medidiff.privacy.leakage.store import Store
from medidiff.progress import OnProgress, silent
from medidiff.synthetic.reports import Family, Metric, PrivacyReport, write_report
from medidiff.synthetic.stored import SyntheticSet


def audit(folder: str | os.PathLike[str], options: AuditOptions, on_progress: OnProgress | None = None) -> AuditResult:
    """Examine what a synthetic set leaks and write ``privacy.json`` into it.

    Args:
        folder: A finished set.
        options: Whom it is held against.
        on_progress: Called with steps done, steps in all, and what is being done.
    Raises:
        ConfigError: the people named are not those that the generator was trained on, or somebody is on both sides.
        InputError: there is no finished set, or its files are not what its records say.
        CheckpointError: the model or the encoder cannot be read, or the model is not the set's.
        OutputError: the report cannot be written.
    """
    started = time.monotonic()
    synthetic = SyntheticSet.open(folder)
    work = prepare(synthetic, options, on_progress or silent)
    spaces, items = find_spaces(work)
    copies = [judge_copies(space) for space in spaces]
    metrics = [copies_figure(entry) for entry in copies]
    metrics += _memorised_as_a_whole(work, spaces)
    metrics += membership(work, spaces)
    work.tell(STEPS, STEPS, "writing the report")
    report = PrivacyReport.conclude(
        metrics,
        reasons(synthetic, len(work.members), len(work.non_members)),
        set_sha256=synthetic.sha256,
        created=datetime.now(UTC),
        code_version=__version__,
        config_sha256=config_digest(options),
        notes=tuple(work.notes + notes(synthetic)),
        training_split_sha256=synthetic.record.training_split_sha256,
        members=len(work.members),
        non_members=len(work.non_members),
        neighbours=neighbours(work, copies, *items.matches),
        differential_privacy=guarantee(synthetic.record.generator.card),
    )
    path = write_report(report, synthetic.folder)
    work.store.clear()
    if options.work is None:
        Store(work.store.folder.parent).clear()
    found = np.any([entry.found for entry in copies], axis=0)
    return AuditResult(
        report.verdict,
        report.reasons,
        path,
        report.metrics,
        tuple(item.id for item, is_copy in zip(synthetic.items, found, strict=True) if is_copy),
        time.monotonic() - started,
    )


def _memorised_as_a_whole(work: Work, spaces: Sequence[Space]) -> list[Metric]:
    note = (
        "Share of items whose nearest training person is nearer than their nearest other person, in equal numbers of "
        "either; one half is what a generator has that knows nobody in particular. The interval is over people."
    )
    return [
        even_figure(
            f"nearer to training than to others ({space.name})",
            Family.MEMORISATION,
            set_level(space, work.members, work.non_members, seed=work.options.seed),
            note,
        )
        for space in spaces
    ]
