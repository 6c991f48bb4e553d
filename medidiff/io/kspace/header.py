"""The XML header of ISMRMRD, which fastMRI's files carry too: matrix, field of view, trajectory, limits.

Source: Inati et al. (2017), ISMRM Raw Data format: a proposed standard for MRI raw datasets, Magn. Reson. Med. 77, 411;
the schema at https://github.com/ismrmrd/ismrmrd/blob/master/schema/ismrmrd.xsd.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from medidiff.errors import InputError

# Real headers are a few kilobytes; vendors append protocols of some hundreds.
MAX_XML_BYTES = 8 << 20
# An MR acquisition of more samples along an axis does not exist.
MAX_MATRIX = 1 << 15
# From a sample in a micro-coil to beyond any bore.
_FOV_MM = (0.1, 1e4)


@dataclass(frozen=True, slots=True)
class Space:
    """A grid: samples or voxels along (read, phase, slice), and their extent in mm."""

    matrix: tuple[int, int, int]
    fov: tuple[float, float, float]

    @property
    def spacing(self) -> tuple[float, float, float]:
        x, y, z = (f / n for f, n in zip(self.fov, self.matrix, strict=True))
        return x, y, z


@dataclass(frozen=True, slots=True)
class Limit:
    """First, last and central index of an encoding counter."""

    minimum: int
    maximum: int
    centre: int


@dataclass(frozen=True, slots=True)
class Header:
    """What medidiff needs of an ISMRMRD header; nothing in it names a person.

    Args:
        encoded: Grid of k-space, oversampling included.
        recon: Grid that the scanner's own image would have.
        trajectory: In lower case: ``"cartesian"``, ``"epi"``, ``"radial"``, ...
        limits: Encoding counters by name, as far as they are given.
        encodings: Number of encodings; only the first is imaging data to us.
    """

    encoded: Space
    recon: Space
    trajectory: str
    limits: dict[str, Limit]
    encodings: int = 1


def parse_header(text: bytes, path: Path) -> Header:
    """Read the header.

    Raises:
        InputError: it is no ISMRMRD header, or says what cannot be.
    """
    if len(text) > MAX_XML_BYTES:
        raise InputError(f"{path} has an ISMRMRD header of {len(text)} bytes; at most {MAX_XML_BYTES} are read")
    if b"<!" in text.replace(b"<!--", b"") or b"\x00" in text.rstrip(b"\x00"):
        # Entities can make a kilobyte into gigabytes; no writer of raw data uses a document type.
        raise InputError(f"{path} has an ISMRMRD header with a document type or null bytes, which none needs")
    try:
        root = ET.fromstring(text.rstrip(b"\x00"))  # noqa: S314 - see above
    except (ET.ParseError, ValueError, LookupError, RecursionError, MemoryError) as error:
        raise InputError(f"{path} has a damaged ISMRMRD header: it is no XML ({type(error).__name__})") from error
    encodings = _children(root, "encoding")
    if _name(root) != "ismrmrdHeader" or not encodings:
        raise InputError(f"{path} has no ISMRMRD header: expected <ismrmrdHeader> with an <encoding>")
    first = encodings[0]
    return Header(
        encoded=_space(first, "encodedSpace", path),
        recon=_space(first, "reconSpace", path),
        trajectory=_text(first, "trajectory").lower(),
        limits=_limits(first, path),
        encodings=len(encodings),
    )


def _name(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _children(element: ET.Element, name: str) -> list[ET.Element]:
    return [child for child in element if _name(child) == name]


def _child(element: ET.Element, name: str) -> ET.Element | None:
    found = _children(element, name)
    return found[0] if found else None


def _text(element: ET.Element, name: str) -> str:
    child = _child(element, name)
    return ("" if child is None else child.text or "").strip()


def _space(encoding: ET.Element, name: str, path: Path) -> Space:
    space = _child(encoding, name)
    matrix, fov = (None, None) if space is None else (_child(space, "matrixSize"), _child(space, "fieldOfView_mm"))
    if matrix is None or fov is None:
        raise InputError(f"{path}: its ISMRMRD header has no {name} with matrixSize and fieldOfView_mm")
    x, y, z = (_integer(_text(matrix, axis), f"{name} matrixSize {axis}", path) for axis in "xyz")
    u, v, w = (_number(_text(fov, axis), f"{name} fieldOfView_mm {axis}", path) for axis in "xyz")
    if not all(1 <= n <= MAX_MATRIX for n in (x, y, z)):
        raise InputError(f"{path}: a {name} of {x} x {y} x {z} cannot be; each side is 1 to {MAX_MATRIX}")
    if not all(_FOV_MM[0] <= f <= _FOV_MM[1] for f in (u, v, w)):
        raise InputError(f"{path}: a {name} of {u:g} x {v:g} x {w:g} mm cannot be")
    return Space((x, y, z), (u, v, w))


def _limits(encoding: ET.Element, path: Path) -> dict[str, Limit]:
    limits = _child(encoding, "encodingLimits")
    found: dict[str, Limit] = {}
    for child in () if limits is None else limits:
        name = _name(child)
        low, high, centre = (_integer(_text(child, part), name, path) for part in ("minimum", "maximum", "center"))
        if not 0 <= low <= high <= 0xFFFF or not 0 <= centre <= 0xFFFF:
            raise InputError(f"{path}: encoding limits {low} to {high} with centre {centre} for {name} cannot be")
        found[name] = Limit(low, high, centre)
    return found


def _integer(text: str, what: str, path: Path) -> int:
    try:
        return int(text[:20])
    except ValueError as error:
        raise InputError(f"{path}: its ISMRMRD header has no whole number for {what}") from error


def _number(text: str, what: str, path: Path) -> float:
    try:
        value = float(text[:40])
    except ValueError as error:
        raise InputError(f"{path}: its ISMRMRD header has no number for {what}") from error
    if not math.isfinite(value):
        raise InputError(f"{path}: its ISMRMRD header has {value} for {what}")
    return value
