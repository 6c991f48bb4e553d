"""From a clean candidate to files of the dataset: face, quality, duplicates, then NIfTI, sidecar and record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medidiff.data.manifest import ManifestRecord
from medidiff.errors import MedidiffError
from medidiff.export.bids import gradient_table, image_stem, sidecar, write_gradients
from medidiff.ingestion import lines
from medidiff.ingestion.candidate import Candidate, SetApart
from medidiff.ingestion.duplicates import SAME_TEXTURE, Fingerprints, fingerprint, same_texture, voxel_hash
from medidiff.ingestion.faces import BodyPart, without_face
from medidiff.ingestion.quality import QualityGate, assess
from medidiff.ingestion.state import DatasetState, StoredVolume
from medidiff.io import read_volume, write_volume
from medidiff.io.atomic import atomic_write_json
from medidiff.io.source import file_sha256
from medidiff.report.contact import thumbnail_png
from medidiff.volume import Volume


class Store:
    """The volumes of a dataset.

    Args:
        state: What is there already.
        gate: The quality gate.
        keep_face: Leave faces as they are.
        body_part: What the user says about all sources.
    """

    def __init__(self, state: DatasetState, gate: QualityGate, *, keep_face: bool, body_part: BodyPart) -> None:
        self._state = state
        self._gate = gate
        self._keep_face = keep_face
        self._body_part: BodyPart = body_part
        self._hashes: dict[str, str] = {}
        self._pictures = Fingerprints()
        for stored in state.volumes():
            self._remember(stored)

    def known(self, identity: str, digest: str) -> bool:
        """Whether exactly this volume is in the dataset."""
        stored = self._state.volume(identity)
        return stored is not None and stored.digest == digest

    def fuller(self, identity: str, planes: int) -> bool:
        """Whether the dataset has a version of this volume that is made of more planes."""
        stored = self._state.volume(identity)
        return stored is not None and stored.planes > planes

    def put(self, candidate: Candidate) -> StoredVolume:
        """Write a volume; from its record on it is in the dataset.

        Raises:
            SetApart: its face cannot be removed, or it is in the dataset already in another form.
            OutputError: it cannot be written.
        """
        volume, face = without_face(candidate.volume, candidate.body_part, keep=self._keep_face, stated=self._body_part)
        hashed, picture = voxel_hash(volume), fingerprint(volume)
        self._refuse_duplicate(candidate, volume, hashed, picture)
        found = assess(volume, self._gate, candidate.body_part)
        stem = image_stem(candidate.subject, candidate.session, candidate.id, candidate.kind)
        place = self._state.dataset / stem
        place.parent.mkdir(parents=True, exist_ok=True)
        image = place.with_name(place.name + ".nii.gz")
        write_volume(volume, image, dtype=_stored_type(volume), frame_step=candidate.frame_step)
        files = [f"{stem}.nii.gz", f"{stem}.json"]
        facts = dict(candidate.sidecar)
        if candidate.frame_step is not None:
            facts["RepetitionTime"] = candidate.frame_step
        atomic_write_json(place.with_name(place.name + ".json"), sidecar(facts, candidate.kind))
        if candidate.gradients is not None:
            table = gradient_table(candidate.gradients.directions, volume.geometry)
            write_gradients(place, candidate.gradients.b_values, table)
            files += [f"{stem}.bval", f"{stem}.bvec"]
        files.append(self._state.add_thumbnail(candidate.id, thumbnail_png(volume)))
        record = _record(candidate, volume, files[0], image, hashed)
        record = replace(
            record,
            usable=not found.reasons,
            reasons=found.reasons,
            quality=found.figures,
            deidentification={**candidate.deidentification, "face": face},
        )
        stored = StoredVolume(record, candidate.digest, candidate.planes, picture, tuple(files))
        self._state.add_volume(stored)
        self._remember(stored)
        return stored

    def _remember(self, stored: StoredVolume) -> None:
        self._hashes = {hashed: name for hashed, name in self._hashes.items() if name != stored.record.id}
        self._hashes[stored.record.voxels_sha256] = stored.record.id
        self._pictures.discard(stored.record.id)
        self._pictures.add(stored.record.id, stored.fingerprint)

    def _refuse_duplicate(self, candidate: Candidate, volume: Volume, hashed: str, picture: str) -> None:
        identity = candidate.id
        twin = self._hashes.get(hashed)
        if twin is not None and twin != identity:
            text = f"the voxels of volume {twin}, to the last"
            raise SetApart(lines.DUPLICATE_VOLUME, text + _doubt(candidate, self._state.volume(twin)))
        for name in self._pictures.candidates(picture):
            stored = self._state.volume(name) if name != identity else None
            if stored is None:
                continue
            try:
                other = read_volume(self._state.dataset / stored.record.path)
            except MedidiffError:  # a damaged output is no reason to lose an input
                continue
            likeness = same_texture(volume, other)
            if likeness >= SAME_TEXTURE:
                text = f"the scan of volume {name} in another form: their fine texture correlates at {likeness:.2f}"
                raise SetApart(lines.DUPLICATE_VOLUME, text + _doubt(candidate, stored))


def _doubt(candidate: Candidate, twin: StoredVolume | None) -> str:
    """A remark on a copy that is said to be of somebody else."""
    return "" if twin is None or twin.record.subject == candidate.subject else f"; {lines.SUBJECTS_DIFFER}"


def _record(candidate: Candidate, volume: Volume, path: str, image: Path, hashed: str) -> ManifestRecord:
    geometry = volume.geometry
    return ManifestRecord(
        id=candidate.id,
        path=path,
        subject=candidate.subject,
        session=candidate.session,
        modality=volume.modality.value,
        suffix=candidate.kind.suffix,
        split="",
        usable=True,
        reasons=(),
        sha256=file_sha256(image),
        voxels_sha256=hashed,
        shape=geometry.shape,
        frames=int(volume.data.shape[0]),
        spacing=tuple(round(step, 6) for step in geometry.spacing),  # type: ignore[arg-type]
        slice_thickness=candidate.slice_thickness,
        orientation=geometry.orientation,
        acquired=candidate.acquired,
        source=candidate.source,
        notes=candidate.notes,
    )


def _stored_type(volume: Volume) -> Any:
    """Half the room where nothing is lost: 16-bit integers for values that are whole and fit, else 32-bit floats."""
    info = np.iinfo(np.int16)
    for frame in volume.data:
        if not np.isfinite(frame).all() or frame.min() < info.min or frame.max() > info.max:
            return np.float32
        if not np.array_equal(frame, np.rint(frame)):
            return np.float32
    return np.int16
