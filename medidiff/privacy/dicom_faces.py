"""Faces in DICOM: all images of a study are looked at together, then each object is told what to do.

A series that shows a brain says where the face is (``facecut``), in patient coordinates. The cut is then carried out on
the stored values of every image of that head: slices, frames and tiles, localizers, thin slabs and tilted stacks too,
whether or not they make a volume. An image that may show a face and for which there is no cut is set apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medidiff.errors import MedidiffError
from medidiff.geometry import Geometry
from medidiff.io.dicom import InstanceHeader, Plane, ReadPolicy, SeriesPlan, index, load
from medidiff.io.dicom.geometry import plane_geometry
from medidiff.io.dicom.group import plan_series
from medidiff.io.dicom.pixels import plane_values, stored_frames, stored_plane
from medidiff.privacy.brain import find_brain, voxel_ml
from medidiff.privacy.facecut import FaceCut
from medidiff.privacy.facerule import (
    TOO_SMALL,
    TRUNK_MM,
    WHOLE_HEAD_MM,
    BodyPart,
    says_head,
    why_no_face,
    why_nobody,
    why_too_little,
)
from medidiff.privacy.faces import AIR_HU, around, cut_of, head_of
from medidiff.privacy.policy import CannotClean
from medidiff.volume import Modality, Volume

Array = NDArray[Any]
Place = tuple[str, int]

# Everything that has a place is looked at: nothing may be refused for being a scout, tilted or uneven.
_READING = ReadPolicy(tilt="shear", uneven="resample", localizers=True)
# People move by some millimetres between series; a cut that lies farther ahead than a better one is not believed.
_AGREE_MM = 10.0
_NO_SIGNAL = ("phase", "real", "imaginary")
_ADVICE = "say --body-part other if it shows no head, or --keep-face"
UNPLACED = f"an image that may show a head does not say where it lies in it; {_ADVICE}"


@dataclass(frozen=True, slots=True)
class FaceOrder:
    """What is to be done about a face in one object.

    Args:
        done: ``"removed"``, ``"nothing"`` (there is none to be seen), ``"kept"``, or ``"unplaced"`` (a head in it would
            have to be set apart).
        why: For a person; no identifier.
        cuts: For each plane, by its index, the cut.
        header: Where the planes lie; None without cuts.
        refusal: Why the object must be set apart; empty if it must not.
    """

    done: str
    why: str = ""
    cuts: dict[int, FaceCut] = field(default_factory=dict)
    header: InstanceHeader | None = None
    refusal: str = ""

    @property
    def token(self) -> str:
        """The same for the same orders: a word, and the cuts."""
        return " ".join([self.done, *sorted({cut.token for cut in self.cuts.values()})])


@dataclass(slots=True)
class _Look:
    """What looking at one stack of planes gave: a cut, a reason why there is no face, or a doubt."""

    header: InstanceHeader
    places: list[Place]
    modality: Modality
    said_head: bool
    scout: bool
    width: float
    voxel: float = 0.0
    reason: str = ""
    doubt: str = ""
    cut: FaceCut | None = None

    @property
    def frame(self) -> tuple[str, str]:
        """What shares a place in space: no two machines share one, whatever an anonymiser wrote."""
        return self.header.frame_of_reference, self.modality.value


def order_faces(paths: Iterable[Path], stated: BodyPart = "auto") -> dict[str, FaceOrder]:
    """Decide for every file of a study what to do about a face.

    Args:
        paths: The files of one study of one person; one volume at a time is held in memory.
        stated: What the user says about all of them.
    Returns:
        An order for each file, by its path.
    """
    headers: list[InstanceHeader] = []
    orders: dict[str, FaceOrder] = {}
    for found in index([str(path) for path in paths], workers=1, localizers=True):
        if isinstance(found, InstanceHeader):
            headers.append(found)
        else:
            done = "nothing" if stated == "other" else "unplaced"
            orders[found.path] = FaceOrder(done, "the user says that it shows no head" if stated == "other" else "")
    looks = _looks(headers, stated)
    _share(looks)
    for header in headers:
        orders[header.path] = _order(header, looks)
    return orders


def _looks(headers: list[InstanceHeader], stated: BodyPart) -> list[_Look]:
    """Look at all volumes, then at each plane that is in none."""
    facts = {header.series_uid: _stated_facts(header) for header in reversed(headers)}
    plans, _ = plan_series(headers, _READING)
    looks, seen = [], set()
    for plan in plans:
        places = [(slot.header.path, slot.plane.index) for frame in plan.frames for slot in frame.slots]
        seen.update(places)
        first = plan.frames[0].slots[0].header
        looks.append(_look(first, places, plan.geometry, plan, facts[first.series_uid], stated))
    for header in headers:
        for plane in header.planes:
            if (header.path, plane.index) not in seen:
                places = [(header.path, plane.index)]
                geometry = plane_geometry(plane, header.rows, header.columns)
                looks.append(_look(header, places, geometry, plane, facts[header.series_uid], stated))
    return looks


def _look(
    header: InstanceHeader,
    places: list[Place],
    geometry: Geometry,
    source: SeriesPlan | Plane,
    facts: tuple[str, bool],
    stated: BodyPart,
) -> _Look:
    body_part, scout = facts
    modality = {"MR": Modality.MR, "CT": Modality.CT}.get(header.modality, Modality.OTHER)
    voxel = float(np.prod(geometry.spacing))
    width = geometry.reoriented()[0].extent[0]
    look = _Look(header, places, modality, says_head(body_part), scout, width, voxel)
    look.reason = why_no_face(geometry, modality, body_part, stated)
    if look.reason:
        return look
    try:
        volume = _voxels(header, geometry, source, modality)
        look.reason = why_nobody(volume)
        if look.reason or (scout and modality is Modality.CT):
            return look
        upright = volume.reoriented()
        brain = find_brain(upright)
        if not (isinstance(source, SeriesPlan) and any(word in source.label for word in _NO_SIGNAL)):
            cut = cut_of(around(brain.mask, upright.geometry), upright)
            tissue = float((head_of(upright) & cut.covers(upright.geometry)).sum()) * voxel_ml(upright.geometry)
            look.reason = why_too_little(tissue, upright.geometry)
            look.cut = None if look.reason else cut
        else:
            look.doubt = "an image of phases shows no brain for certain"
    except CannotClean as error:
        look.doubt = error.explanation
    except MedidiffError:  # said in full where the file is cleaned
        look.doubt = "the voxels cannot be read"
    return look


def _voxels(header: InstanceHeader, geometry: Geometry, source: SeriesPlan | Plane, modality: Modality) -> Volume:
    """The first frame of a plan, or a plane as a volume of one slice."""
    if isinstance(source, SeriesPlan):
        return load(source.split()[0])
    values = plane_values(header, stored_frames(header), source)
    return Volume(np.asarray(values, dtype=np.float32).T[None, :, :, None], geometry, modality)


def _share(looks: list[_Look]) -> None:
    """Give the best cut of each head to the images of it that have none, or one that cannot be right."""
    best: dict[tuple[str, str], _Look] = {}
    for look in looks:
        if look.cut is not None and look.width >= WHOLE_HEAD_MM and look.frame[0]:
            known = best.get(look.frame)
            if known is None or look.voxel < known.voxel:
                best[look.frame] = look
    for look in looks:
        other = best.get(look.frame)
        if other is None or other.cut is None or (look.reason and look.reason != TOO_SMALL):
            continue
        farther = look.cut is not None and any(
            own > shared + _AGREE_MM for own, shared in zip(look.cut.distances, other.cut.distances, strict=True)
        )
        if look.cut is None or farther:
            look.cut, look.doubt, look.reason = other.cut, "", ""


def _order(header: InstanceHeader, looks: list[_Look]) -> FaceOrder:
    mine = [(look, place[1]) for look in looks for place in look.places if place[0] == header.path]
    cuts = {number: look.cut for look, number in mine if look.cut is not None}
    open_ = [look for look, _ in mine if look.cut is None and not look.reason]
    for look in open_:
        if look.scout and look.modality is Modality.CT:
            return FaceOrder("kept", "a projection without a head scan beside it: its outline may be seen")
        if look.said_head or look.width <= TRUNK_MM:
            return FaceOrder("unplaced", refusal=f"{look.doubt}; {_ADVICE}")
    if cuts:
        return FaceOrder("removed", "", cuts, header)
    reasons = sorted({look.reason for look, _ in mine if look.reason})
    return FaceOrder("nothing", "; ".join(reasons) or "no brain found in a body wider than a head")


def _stated_facts(header: InstanceHeader) -> tuple[str, bool]:
    """Body part, and whether it is a scout, as the header says."""
    tags = ["BodyPartExamined", "ImageType", "SeriesDescription"]
    try:
        ds = pydicom.dcmread(header.path, stop_before_pixels=True, specific_tags=tags, force=True)
        kinds = {str(part).upper() for part in (ds.get("ImageType") or [])}
        return str(ds.get("BodyPartExamined", "") or ""), bool(kinds & {"LOCALIZER", "SCOUT", "SURVIEW"})
    except Exception:  # noqa: BLE001 - pydicom fails in many ways; then nothing is said
        return "", False


def remove_face(clean: Dataset, order: FaceOrder) -> int:
    """Carry an order out on clean, uncompressed pixel data, in place.

    Args:
        clean: Pixel data as ``pixel_data`` leaves it: explicit little endian, one sample a pixel.
        order: With the planes' places and cuts.
    Returns:
        How many stored values were changed.
    """
    header = order.header
    if header is None or not order.cuts:
        return 0
    keyword = next(name for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if name in clean)
    kind = {"FloatPixelData": "<f4", "DoubleFloatPixelData": "<f8"}.get(keyword)
    if kind is None:
        kind = f"<{'i' if clean.PixelRepresentation else 'u'}{int(clean.BitsAllocated) // 8}"
    rows, columns = int(clean.Rows), int(clean.Columns)
    raw = bytes(clean[keyword].value)
    count = len(raw) // (np.dtype(kind).itemsize * rows * columns)
    frames = np.frombuffer(raw, dtype=kind, count=count * rows * columns).reshape(count, rows, columns).copy()
    changed = 0
    for number, cut in order.cuts.items():
        plane = header.planes[number]
        face = cut.covers(plane_geometry(plane, header.rows, header.columns))[:, :, 0].T
        target = stored_plane(header, frames, plane)
        if target.shape != face.shape:
            raise CannotClean("face-unverified", "the pixels do not have the size that the planes need")
        value = _background(clean, plane, header, np.dtype(kind))
        changed += int((target[face] != value).sum())
        target[face] = value
    if changed:
        clean[keyword].value = frames.tobytes() + b"\0" * (frames.nbytes % 2)
        for name in ("SmallestImagePixelValue", "LargestImagePixelValue"):
            if name in clean:
                del clean[name]
    return changed


def _background(clean: Dataset, plane: Plane, header: InstanceHeader, kind: np.dtype[Any]) -> Any:
    """The stored value of air: -1000 HU in CT, no signal elsewhere, or the nearest that the bits can hold."""
    if kind.kind == "f":
        return kind.type((AIR_HU if header.modality == "CT" else 0.0) - plane.intercept)
    bits = int(clean.BitsStored)
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if kind.kind == "i" else (0, (1 << bits) - 1)
    physical = AIR_HU if header.modality == "CT" else 0.0
    stored = (physical - plane.intercept) / (plane.slope or 1.0)
    value = round(min(max(stored, low), high)) if np.isfinite(stored) else low
    value = low + high - value if header.pixels.inverted else value
    return kind.type(value << (int(clean.HighBit) + 1 - bits))
