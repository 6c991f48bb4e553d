"""What became of every file: a line each, without a name or a path."""

from __future__ import annotations

from dataclasses import dataclass

from medidiff.io.dicom import Reason

KEPT, APART, SKIPPED = "kept", "apart", "skipped"

# An ordinary export has these, and nobody has to do anything about them.
_ORDINARY = frozenset(
    {
        Reason.DIRECTORY_RECORD.value,
        Reason.NOT_AN_IMAGE.value,
        Reason.NOT_A_SCAN.value,
        Reason.SECONDARY_CAPTURE.value,
        Reason.LOCALIZER.value,
        Reason.COLOUR.value,
        Reason.DUPLICATE.value,
    }
)
METADATA = "metadata"
UNPACKED = "archive, unpacked"
REFUSED_MEMBER = "archive member refused"
DAMAGED_ARCHIVE = "damaged archive"
DUPLICATE_VOLUME = "duplicate volume"
SINGLE_SLICE = "single slice"
OLDER_VERSION = "fuller version present"
UNUSABLE_IMAGE = "unusable image"
NOT_A_REAL_SCAN = "marked as synthetic or edited"
OVER_BUDGET = Reason.OVER_BUDGET.value
SEVERAL_PATIENTS = "several patients"
NOT_CLEAN = "cannot be de-identified"
NOT_RETRIEVED = "not retrieved"
INTERNAL = "internal error"
NAMES_DISAGREE = "names disagree under one patient ID; make sure that it is one person's"
SUBJECTS_DIFFER = "they are filed under two subjects; make sure whose it is"
_QUIET = _ORDINARY | {METADATA, UNPACKED, DUPLICATE_VOLUME, OLDER_VERSION, SINGLE_SLICE}


@dataclass(frozen=True, slots=True)
class FileLine:
    """What became of one file of the source.

    Args:
        file: Keyed token of the file's place; ``find_source`` says which it is, for whoever has the key.
        outcome: ``"kept"`` in a volume, ``"apart"`` with a reason, ``"skipped"`` for what holds no image data.
        reason: A fixed word; empty where kept.
        text: What was expected and found; no identifier.
        volume: Id of the volume it is in, where kept.
    """

    file: str
    outcome: str
    reason: str = ""
    text: str = ""
    volume: str = ""

    @property
    def is_bad_input(self) -> bool:
        """Whether somebody should look at it: it was meant to be a scan and is none that can be used."""
        return self.outcome == APART and self.reason not in _QUIET
