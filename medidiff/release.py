"""Release: a synthetic set that passed goes out, in the formats that others read, marked in every file; or is refused.

    result = release("sets/hippocampus", "out/hippocampus-1", ReleaseOptions(formats=("bids", "dicom")))

The folder appears whole or not at all, and the same set gives the same bytes.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from medidiff import __version__
from medidiff.config import Config
from medidiff.errors import GateRefused, OutputError, TargetError
from medidiff.export.bids_synthetic import write_bids
from medidiff.export.cards import write_cards
from medidiff.export.croissant import write_croissant
from medidiff.export.dicom import check_dicom, write_dicom
from medidiff.export.nnunet import DEFAULT_NUMBER, check_nnunet, write_nnunet
from medidiff.export.release_files import SUMS, files_below, release_faults, write_sums
from medidiff.export.synthetic_facts import write_json
from medidiff.progress import OnProgress, silent
from medidiff.report.html import write_html
from medidiff.report.release_page import release_page
from medidiff.synthetic.gate import Judgement, judge
from medidiff.synthetic.reports import FILES, PrivacyReport, QualityReport, sealed
from medidiff.synthetic.stored import SyntheticSet

Format = Literal["bids", "nnunet", "dicom", "croissant"]
FORMATS: tuple[Format, ...] = ("bids", "nnunet", "dicom", "croissant")

# A terminal holds no more; the page has all.
_MOST_LINES = 100
_STAGING = re.compile(r"^\..+\.medidiff-release-[0-9a-f]{16}$")


class ReleaseOptions(Config):
    """What to release.

    Args:
        formats: In which forms; each has a folder of its own.
        nnunet_number: The dataset's number in nnU-Net.
    """

    kind: Literal["release"] = "release"
    formats: tuple[Format, ...] = Field(("bids", "croissant"), min_length=1)
    nnunet_number: int = Field(DEFAULT_NUMBER, ge=1, le=999)


@dataclass(frozen=True, slots=True)
class ReleaseResult:
    """What went out.

    Args:
        output: The folder.
        items: Synthetic items in it.
        files, size: Files, and their bytes together.
        set_sha256: Of the set.
        formats: Folders in it.
    """

    output: Path
    items: int
    files: int
    size: int
    set_sha256: str
    formats: tuple[Format, ...]


def release(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: ReleaseOptions | None = None,
    on_progress: OnProgress | None = None,
    *,
    report: str | os.PathLike[str] | None = None,
) -> ReleaseResult:
    """Release a synthetic set, or refuse to.

    Args:
        source: Folder of the set, with ``quality.json`` and ``privacy.json``.
        output: Folder to make; must not exist.
        options: Formats and their settings.
        on_progress: Called with steps done, steps in all, and what is being done.
        report: Also write the page for the house here, refused or not; it may show training data.
    Raises:
        GateRefused: with every reason.
        InputError: there is no finished set.
        ConfigError: the set does not fit a format.
        TargetError: there is no such folder, or it lies in the set.
        OutputError: the place is taken or cannot be written.
    """
    options = options or ReleaseOptions()
    target = Path(output)
    formats = tuple(name for name in FORMATS if name in options.formats)
    _check_place(target, Path(source))
    tell = on_progress or silent
    steps = len(formats) + 3
    tell(0, steps, "examining the set")
    judgement = judge(Path(source))
    if report is not None:
        write_html(release_page(judgement, formats, internal=True), Path(report))
    synthetic, quality, privacy = judgement.synthetic, judgement.quality, judgement.privacy
    if judgement.reasons or synthetic is None or quality is None or privacy is None:
        raise GateRefused(refusal(judgement))
    _check_formats(synthetic, formats)
    with _staged(target) as staging:
        for number, name in enumerate(formats, 1):
            tell(number, steps, f"writing {name}")
            _write_format(name, synthetic, quality, privacy, staging / name, options)
        tell(steps - 2, steps, "writing the papers")
        _write_papers(judgement, synthetic, quality, privacy, formats, staging)
        tell(steps - 1, steps, "checking every file")
        write_sums(staging)
        faults = release_faults(staging)
        if faults:  # a defect of ours, and better found here than by whoever gets the data
            raise GateRefused(_listed("the release is not as it must be:", faults))
        names = files_below(staging)
        size = sum((staging / name).stat().st_size for name in names)
    tell(steps, steps, "released")
    return ReleaseResult(target, len(synthetic.items), len(names), size, synthetic.sha256, formats)


def check(folder: str | os.PathLike[str]) -> int:
    """Look at a release that was received: is every file there, unaltered, and marked as synthetic?

    Returns:
        The number of files.
    Raises:
        InputError: it is no release.
        GateRefused: with everything that is not as it was.
    """
    where = Path(folder)
    faults = release_faults(where)
    if faults:
        raise GateRefused(_listed(f"{where} is not what was released:", faults))
    return len(files_below(where))


def refusal(judgement: Judgement) -> str:
    """The reasons, a line each."""
    count = len(judgement.reasons)
    return _listed("refused:" if count == 1 else f"refused, {count} reasons:", judgement.reasons)


def _listed(title: str, reasons: Sequence[str]) -> str:
    """A line each; the name of a file, which is in some, can forge none."""
    shown = [json.dumps(text, ensure_ascii=False)[1:-1] if "\n" in text else text for text in reasons[:_MOST_LINES]]
    more = [f"and {len(reasons) - _MOST_LINES} more"] if len(reasons) > _MOST_LINES else []
    return "\n".join([title, *(f"  - {text}" for text in (*shown, *more))])


def _check_formats(synthetic: SyntheticSet, formats: tuple[Format, ...]) -> None:
    if "nnunet" in formats:
        check_nnunet(synthetic)
    if "dicom" in formats:
        check_dicom(synthetic)


def _write_format(
    name: Format,
    synthetic: SyntheticSet,
    quality: QualityReport,
    privacy: PrivacyReport,
    target: Path,
    options: ReleaseOptions,
) -> None:
    match name:
        case "bids":
            write_bids(synthetic, target)
        case "nnunet":
            write_nnunet(synthetic, target, options.nnunet_number)
        case "dicom":
            write_dicom(synthetic, target)
        case "croissant":
            write_croissant(synthetic, quality, privacy, target)


def _write_papers(
    judgement: Judgement,
    synthetic: SyntheticSet,
    quality: QualityReport,
    privacy: PrivacyReport,
    formats: tuple[Format, ...],
    staging: Path,
) -> None:
    write_cards(synthetic, quality, privacy, formats, staging)
    write_json(sealed(quality), staging / FILES[QualityReport])
    # Pictures of training volumes show real people: they stay in the house.
    write_json(sealed(privacy.without_pictures()), staging / FILES[PrivacyReport])
    write_html(release_page(judgement, formats, internal=False), staging / "report.html")
    record: dict[str, Any] = {
        "synthetic": True,
        "schema_version": 1,
        "name": synthetic.record.name,
        "set_sha256": synthetic.sha256,
        "created": synthetic.record.model_dump(mode="json")["created"],
        "licence": synthetic.record.licence,
        "items": len(synthetic.items),
        "formats": list(formats),
        "made_by": f"medidiff {synthetic.record.code_version}",
        "released_by": f"medidiff {__version__}",
        "quality": quality.verdict.value,
        "privacy": privacy.verdict.value,
    }
    write_json(record, staging / "release.json")


def _check_place(target: Path, source: Path) -> None:
    """Refuse a place before minutes are spent."""
    if target.exists() or target.is_symlink():
        raise OutputError(f"cannot write {target}: it exists; a release is never changed, name a new folder")
    if not target.parent.is_dir():
        raise TargetError(f"cannot write {target}: there is no folder {target.parent}; create it first")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {target}: no permission to write in {target.parent}; choose another place")
    if target.resolve().is_relative_to(source.resolve()):
        raise TargetError(f"cannot write {target}: it lies in the set itself; choose another place")


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` that takes its place when the block ends well, and is gone otherwise."""
    _remove_stale(target.parent)
    staging = target.parent / f".{target.name[:100]}.medidiff-release-{secrets.token_hex(8)}"
    try:
        staging.mkdir()
        with _locked(staging):
            yield staging
            _flush(staging)
            staging.rename(target)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder; the system gives it back however the process ends.

    Raises:
        BlockingIOError: somebody else holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _remove_stale(folder: Path) -> None:
    """Remove what releases that were killed left behind: nobody holds their locks."""
    for entry in folder.iterdir():
        if _STAGING.match(entry.name):
            with suppress(OSError), _locked(entry):
                shutil.rmtree(entry, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Wait until the disk has every file, so that a power cut after the renaming finds them all."""
    for parent, _, files in os.walk(folder):
        for path in (*(Path(parent) / name for name in files), Path(parent)):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


__all__ = ["FORMATS", "SUMS", "Format", "ReleaseOptions", "ReleaseResult", "check", "release"]
