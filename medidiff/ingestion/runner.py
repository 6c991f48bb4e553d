"""The run itself: series after series, file after file; whatever happens to one, the next has its turn."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from medidiff.errors import BudgetError, InputError, OutputError
from medidiff.ingestion import lines
from medidiff.ingestion.candidate import Candidate, SetApart
from medidiff.ingestion.heap import Heap
from medidiff.ingestion.images import Place, clean_image, image_digest
from medidiff.ingestion.lines import APART, KEPT, FileLine
from medidiff.ingestion.series import Tools, clean_series, person_of, plane_count, volume_digest, volume_id
from medidiff.ingestion.spool import Entry, Group, Spool
from medidiff.ingestion.state import DatasetState
from medidiff.ingestion.store import Store
from medidiff.io.dicom import Reason, SeriesPlan, SeriesRefused, SeriesReport, find_series
from medidiff.privacy.keys import PrivacyKey
from medidiff.progress import OnProgress

Fate = list[str]
# What another run may find otherwise is not remembered.
_PASSING = (lines.INTERNAL, Reason.UNREADABLE.value)
_CHANGED = "it went or changed its kind while the heap was worked on; run again when nobody writes there"


class Runner:
    """One run over an indexed heap.

    Args:
        state: The dataset's memory.
        store: Where volumes go.
        spool: The index, and the lines.
        heap: Names of files.
        tools: Key and settings.
        subject_pattern: See ``images.clean_image``.
    """

    def __init__(
        self, state: DatasetState, store: Store, spool: Spool, heap: Heap, tools: Tools, subject_pattern: str
    ) -> None:
        self._state = state
        self._store = store
        self._spool = spool
        self._heap = heap
        self._tools = tools
        self._subject_pattern = subject_pattern
        self.added: list[str] = []
        self._disputed: frozenset[str] = frozenset()

    def run(self, on_progress: OnProgress) -> None:
        """Work through all series, then all volume files."""
        series, images = self._spool.count()
        done = 0
        self._disputed = self._spool.disputed()
        for group in self._spool.groups():
            on_progress(done, series + images, "series")
            self._series(group)
            done += 1
        for path, file in self._spool.images():
            on_progress(done, series + images, "images")
            self._image(path, file)
            done += 1
        self._spool.resolve_parts()
        on_progress(done, series + images, "done")

    def _series(self, group: Group) -> None:
        entries = self._spool.entries(group)
        key = self._tools.key
        identity = key.token("group", f"{group.study}|{group.series}|{group.number}", 20)
        objects = {entry.path: key.token("object", f"{entry.person} {entry.sop} {entry.size}", 16) for entry in entries}
        strays = self._spool.strays(group)
        seen = sorted(f"{objects[entry.path]} {entry.changed}" for entry in entries)
        content = "\n".join([self._tools.fingerprint, str(len(strays)), *seen])
        digest = key.token("group content", content, 32)
        known = self._state.group(identity, digest)
        if known is None:
            fates = self._plan(entries, strays)
            known = {}
            for entry in entries:
                known.setdefault(objects[entry.path], []).append(fates[entry.path])
            if not any(fate[1] in _PASSING for each in known.values() for fate in each):
                self._state.add_group(identity, digest, known)
        taken: dict[str, int] = {}
        for entry in entries:
            name = objects[entry.path]
            number = taken.get(name, 0)
            taken[name] = number + 1
            outcome, reason, text, volume = known[name][number]
            if entry.person in self._disputed:
                text = f"{text}; {lines.NAMES_DISAGREE}" if text else lines.NAMES_DISAGREE
            self._spool.add_line(FileLine(entry.file, outcome, reason, text, volume))

    def _plan(self, entries: list[Entry], strays: list[str]) -> dict[str, Fate]:
        """What becomes of each file of a series, by its path."""
        paths = [entry.path for entry in entries]
        try:
            reports = self._reports_by_person(entries, strays)
        except Exception as error:  # noqa: BLE001 - a defect in planning one series must not end the run
            text = f"planning ended in {type(error).__name__}; please report it"
            return {path: [APART, lines.INTERNAL, text, ""] for path in paths}
        fates: dict[str, Fate] = {}
        taken: set[str] = set()
        for report in reports:
            partly: dict[str, str] = {}
            for item in report.set_aside:
                fates.setdefault(item.path, [APART, item.reason.value, item.text, ""])
                if item.frame is not None:
                    partly[item.path] = f"some of its frames are in no volume: {item.reason.value}: {item.text}"
            for plan in report.series:
                fate = self._volume(plan, taken)
                for path in plan.files:
                    if fates.get(path, [""])[0] != KEPT:
                        note = partly.get(path, "") if fate[0] == KEPT else ""
                        fates[path] = [fate[0], fate[1], fate[2] or note, fate[3]]
        for path in paths:
            if Path(path).is_file():
                fates.setdefault(path, [APART, lines.INTERNAL, "lost from sight; please report it", ""])
            else:
                fates.setdefault(path, [APART, Reason.UNREADABLE.value, _CHANGED, ""])
        return fates

    def _reports_by_person(self, entries: list[Entry], strays: list[str]) -> list[SeriesReport]:
        """Plans of a series, of each person by himself: a UID that two share makes neither a copy of the other."""
        people: dict[str, list[str]] = {}
        for entry in entries:
            people.setdefault(entry.person, []).append(entry.path)
        if len(people) > 1:
            together = self._find([*(entry.path for entry in entries), *strays])
            if any(_is_torn(plan, self._tools.key) for plan in together.series):
                return [together]  # one scan whose slices name several: refused where it is cleaned
        return [report for _, paths in sorted(people.items()) for report in self._reports(paths, strays)]

    def _reports(self, paths: list[str], strays: list[str]) -> list[SeriesReport]:
        """Plans of a series: of all its files together, or folder by folder where copies spoil one another.

        The same series is often exported more than once, and one of the copies may be damaged.
        """
        together = self._find([*paths, *strays])
        folders: dict[str, list[str]] = {}
        for path in [*paths, *strays]:
            folders.setdefault(str(Path(path).parent), []).append(path)
        if len(folders) < 2 or not together.set_aside:
            return [together]
        apart = [self._find(members) for _, members in sorted(folders.items())]
        if max(map(_largest, apart)) <= _largest(together):
            return [together]
        # The fullest copy comes first, and takes the volume's name.
        return sorted(apart, key=_largest, reverse=True)

    def _find(self, paths: list[str]) -> SeriesReport:
        return find_series(paths, policy=self._tools.reading, workers=1)

    def _volume(self, plan: SeriesPlan, taken: set[str]) -> Fate:
        """Keep a volume, unless another copy of the series has taken its place."""
        tools = self._tools
        try:
            if min(plan.geometry.shape) < 2:
                return [APART, lines.SINGLE_SLICE, "one image is no volume; two at least are needed", ""]
            identity = volume_id(plan, tools.key)
            if identity in taken:
                return [APART, lines.OLDER_VERSION, f"volume {identity} was made of another copy of this series", ""]
            taken.add(identity)
            try:
                digest = volume_digest(plan, tools)
            except OSError as error:  # the source's trouble, not ours: the run goes on
                raise SetApart(Reason.UNREADABLE.value, _CHANGED) from error
            if self._store.known(identity, digest):
                return [KEPT, "", "", identity]
            if self._store.fuller(identity, plane_count(plan)):
                text = f"volume {identity} was made of more images of this series"
                return [APART, lines.OLDER_VERSION, text, ""]
            candidate = clean_series(plan, digest, tools)
            if person_of(plan.frames[0].slots[0].header, tools.key) in self._disputed:
                candidate = replace(candidate, notes=(*candidate.notes, lines.NAMES_DISAGREE))
            return self._keep(candidate)
        except Exception as error:  # noqa: BLE001 - sorted there
            return _fate_of(error)
        finally:
            shutil.rmtree(tools.work / "clean", ignore_errors=True)

    def _image(self, path: str, file: str) -> None:
        try:
            digest = image_digest(Path(path), self._tools)
            known = self._state.group(f"image-{digest}", digest)
            if known is None:
                fate = self._one_image(path, digest)
                known = {"image": [fate]}
                if fate[1] != lines.INTERNAL:
                    self._state.add_group(f"image-{digest}", digest, known)
            fate = known["image"][0]
        except SetApart as error:
            fate = _fate_of(error)
        self._spool.add_line(FileLine(file, fate[0], fate[1], fate[2], fate[3]))

    def _one_image(self, path: str, digest: str) -> Fate:
        root = next((root for root in reversed(self._heap.roots) if Path(path).is_relative_to(root)), Path(path))
        identity = self._tools.key.token("volume", f"image {digest}", 12)
        if self._store.known(identity, digest):
            return [KEPT, "", "", identity]
        try:
            place = Place(Path(path), self._heap.name(path), root)
            return self._keep(clean_image(place, digest, self._tools, self._subject_pattern))
        except Exception as error:  # noqa: BLE001 - sorted there
            return _fate_of(error)

    def _keep(self, candidate: Candidate) -> Fate:
        stored = self._store.put(candidate)
        self.added.append(stored.record.id)
        return [KEPT, "", "", stored.record.id]


def _largest(report: SeriesReport) -> int:
    return max((plane_count(plan) for plan in report.series), default=0)


def _is_torn(plan: SeriesPlan, key: PrivacyKey) -> bool:
    """Whether the slices of one scan name several persons: no place has images of two of them."""
    owners: dict[tuple[float, ...], set[str]] = {}
    for frame in plan.frames:
        for slot in frame.slots:
            place = tuple(round(value, 2) for value in slot.plane.position)
            owners.setdefault(place, set()).add(person_of(slot.header, key))
    return len(set().union(*owners.values())) > 1 and all(len(here) == 1 for here in owners.values())


def _fate_of(error: Exception) -> Fate:
    """A line for what kept a source from becoming a volume.

    Raises:
        OutputError, OSError: the trouble is on our side, and would be the same for all that follow.
    """
    if isinstance(error, SetApart):
        return [APART, error.reason, error.text, ""]
    if isinstance(error, SeriesRefused):
        return [APART, error.reason.value, error.text, ""]
    if isinstance(error, BudgetError | MemoryError):
        return [
            APART,
            lines.OVER_BUDGET,
            "the volume is larger than the memory budget; raise it, or split the source",
            "",
        ]
    if isinstance(error, OutputError | OSError):
        raise error
    if isinstance(error, InputError):
        return [APART, lines.UNUSABLE_IMAGE, f"it could not be read ({type(error).__name__})", ""]
    return [APART, lines.INTERNAL, f"ended in {type(error).__name__}; please report it", ""]
