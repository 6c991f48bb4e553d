"""What a project decides about its clean data, and the one error that sets a file apart."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

from medidiff.errors import InputError

# Raised when the meaning of the profile changes, so that a later run knows older output as older.
PROFILE_VERSION = 2


class CannotClean(InputError):
    """A file that cannot be shown to be clean. It is set apart and not written.

    Args:
        reason: A short fixed word, safe to log and count.
        explanation: What was found and what to do; holds no value of the file.
    """

    def __init__(self, reason: str, explanation: str) -> None:
        super().__init__(f"{reason}: {explanation}")
        self.reason = reason
        self.explanation = explanation


@dataclass(frozen=True, slots=True)
class DeidentifyPolicy:
    """The options of PS3.15 Annex E that a project claims. The defaults are the safe ones.

    Args:
        clean_pixels: Search pixels for burned-in text and clean them (Clean Pixel Data). Without it every file is
            marked as not checked.
        clean_faces: Remove faces from head MR and CT (Clean Recognizable Visual Features); without it they are left and
            (0028,0302) says so.
        body_part: ``"head"`` or ``"other"`` where the user knows better than the headers; ``"auto"``.
        keep_safe_private: Keep private numbers known to be physics, and a CSA header rewritten from them.
        keep_uids: Keep UIDs as they are (Retain UIDs); links the data to the source.
        keep_characteristics: Keep sex, age (90 and above as 90), size and weight (Retain Patient Characteristics).
        max_bytes: Largest file that is read, and largest that a deflated one may become.
    """

    clean_pixels: bool = True
    clean_faces: bool = True
    body_part: Literal["auto", "head", "other"] = "auto"
    keep_safe_private: bool = True
    keep_uids: bool = False
    keep_characteristics: bool = False
    max_bytes: int = 4 << 30

    @property
    def fingerprint(self) -> str:
        """A short hash of the options and the profile's version, written into clean files."""
        text = json.dumps({**asdict(self), "profile": PROFILE_VERSION}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
