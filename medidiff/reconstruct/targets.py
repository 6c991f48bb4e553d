"""Every file that a reconstruction leaves, and the refusal of places that cannot be written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medidiff.errors import OutputError, TargetError
from medidiff.io.places import beside, check_targets
from medidiff.reconstruct.options import ReconstructOptions

# A record is a few kilobytes.
MAX_RECORD_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Targets:
    """Every file that a reconstruction will leave."""

    volume: Path
    samples: tuple[Path, ...]
    spread: Path | None
    interval: Path | None
    from_prior: Path | None
    record: Path
    preview: Path | None
    report: Path | None

    @classmethod
    def of(cls, volume: Path, options: ReconstructOptions) -> Targets:
        return cls(
            volume=volume,
            samples=tuple(beside(volume, f"_sample-{index:02d}") for index in range(1, options.samples + 1)),
            spread=beside(volume, "_spread") if options.samples > 1 else None,
            interval=beside(volume, "_interval") if options.wants_interval else None,
            from_prior=beside(volume, "_from-prior") if options.provenance else None,
            record=beside(volume, "", ".json"),
            preview=options.preview,
            report=options.report,
        )

    @property
    def maps(self) -> tuple[Path, ...]:
        """What is written beside the result about how sure it is."""
        return tuple(path for path in (self.spread, self.interval, self.from_prior) if path is not None)

    def check(self, sources: Sequence[Path]) -> None:
        """Refuse places that cannot be written before minutes are spent on what would be written there.

        Raises:
            TargetError: what was named can never hold it; see ``medidiff.io.places.check_targets``.
            OutputError: no permission, or somebody else's file is where the record would go.
        """
        others = (self.record, *(path for path in (self.preview, self.report) if path is not None))
        for source in sources:
            check_targets((self.volume, *self.samples, *self.maps), others, source)
        for path, suffixes in ((self.preview, (".png",)), (self.report, (".html", ".htm"))):
            if path is not None and path.suffix.lower() not in suffixes:
                raise TargetError(f"cannot write {path}: its name must end in {' or '.join(suffixes)}")
        if self.record.exists() and not _is_record(self.record):
            raise OutputError(
                f"cannot write {self.record}: a file of that name is there that is no record of medidiff, "
                "such as the scan's own sidecar; choose another output"
            )


def _is_record(path: Path) -> bool:
    """Whether a file is a record that an earlier reconstruction left, and may be replaced."""
    try:
        if path.stat().st_size > MAX_RECORD_BYTES:
            return False
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and {"medidiff", "plan", "operators"} <= found.keys()
