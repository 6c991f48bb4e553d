"""What was done in a tree already, so that a run that was stopped goes on and one that is repeated changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

from medidiff.privacy.deidentify import CleanResult

JOURNAL = ".medidiff-deidentify.jsonl"


class Journal:
    """One line per finished file: keyed hashes of its content and of its study's, policy, clean name, what was done.

    A torn last line is ignored.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self._path, self._fingerprint = path, fingerprint
        self._lines: dict[str, dict[str, str]] = {}
        if path.exists():
            for line in path.read_text("utf-8", errors="replace").splitlines():
                try:
                    entry = json.loads(line)
                    self._lines[str(entry["content"])] = {name: str(value) for name, value in entry.items()}
                except (ValueError, KeyError, TypeError, AttributeError):
                    continue

    def done(self, digest: str, together: str, target: Path) -> dict[str, str] | None:
        """The line of a file that was cleaned under this policy, among the same files of its study."""
        entry = self._lines.get(digest, {})
        if entry.get("policy") != self._fingerprint or entry.get("study") != together:
            return None
        return entry if (target / entry.get("target", "")).is_file() and {"pixels", "face"} <= set(entry) else None

    def add(self, digest: str, together: str, name: str, result: CleanResult) -> None:
        entry = {"content": digest, "study": together, "policy": self._fingerprint, "target": name,
                 "pixels": result.pixels, "face": result.face}  # fmt: skip
        self._lines[digest] = entry
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")

    def drop(self, digest: str, target: Path) -> None:
        """Remove what an earlier run made of a file that may not be written now."""
        name = self._lines.get(digest, {}).get("target", "")
        place = (target / name).resolve()
        if name and place.is_relative_to(target.resolve()) and place.is_file():
            place.unlink()
