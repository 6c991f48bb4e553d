"""NRRD, with the voxels in the same file or in one beside it."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import GeometryError, InputError
from medidiff.io.declared import Declared, check_volume_sizes, spatial_geometry
from medidiff.io.info import VolumeInfo
from medidiff.io.source import HEAD_BYTES, Source, exists, open_source, open_stream
from medidiff.volume import Modality

_ENCODINGS = {"raw": "", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
_ENDIAN: dict[str, Literal["<", ">"]] = {"little": "<", "big": ">"}

# Signs that take the file's axes to R, A, S.
_SPACES = {
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
}
_LPS = (-1, -1, 1)
_SPATIAL_KINDS = {"domain", "space"}
_COLOUR_KINDS = {"rgb-color", "hsv-color", "xyz-color", "rgba-color"}
_MILLIMETRES = {"m": 1000.0, "cm": 10.0, "mm": 1.0, "um": 1e-3}
_SECONDS = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "msec": 1e-3}


@dataclass(frozen=True, slots=True)
class _Axes:
    """Which stored axes are space, and which one, if any, counts frames."""

    space: tuple[int, int, int]
    frame: int | None


def recognises(head: bytes) -> bool:
    """Whether the content begins as a NRRD header does."""
    return head[:6] == b"NRRD00"


def declare(source: Source) -> Declared:
    """What the header claims.

    Raises:
        InputError: the header is damaged, names data elsewhere, or describes something that is no 3D scan.
        GeometryError: the grid cannot be used.
    """
    text, end = _header_text(source)
    header = _parse(text, source.path)
    sizes = _sizes(header, source.path)
    dtype = _dtype(header, source.path)
    axes = _axes(header, sizes, source.path)
    grid = (sizes[axes.space[0]], sizes[axes.space[1]], sizes[axes.space[2]])
    check_volume_sizes(grid, source.path)
    affine, notes = _affine(header, axes, source.path)
    frames = 1 if axes.frame is None else sizes[axes.frame]
    info = VolumeInfo(
        format="nrrd",
        geometry=spatial_geometry(affine, grid, source.path),
        frames=frames,
        dtype=dtype.name,
        modality=_modality(header),
        slice_thickness=_thickness(header, axes),
        frame_step=_frame_step(header, axes) if frames > 1 else None,
        notes=notes,
    )
    place = _data_place(header, source, end, math.prod(sizes) * dtype.itemsize)
    return Declared(info, sizes, dtype, axes.frame, *place)


def _header_text(source: Source) -> tuple[bytes, int]:
    """The header, and where what follows it begins."""
    ends = [(source.head.find(blank), len(blank)) for blank in (b"\n\n", b"\r\n\r\n")]
    found = min(((at, size) for at, size in ends if at >= 0), default=None)
    if found is not None:
        return source.head[: found[0]], found[0] + found[1]
    if len(source.head) >= HEAD_BYTES:
        raise InputError(f"{source.path} has a damaged NRRD header: it does not end within {HEAD_BYTES} bytes")
    return source.head, len(source.head)  # a header of its own needs no blank line


def _parse(text: bytes, path: Path) -> dict[str, Any]:
    import nrrd

    try:
        with np.errstate(all="raise"):  # a size beyond int64 is an error, not a warning
            fields = dict(nrrd.read_header(io.BytesIO(text)))
    except Exception as error:  # on damaged text pynrrd raises what its parts raise
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{path} has a damaged NRRD header ({reason})") from error
    # The standard allows "data file" and "datafile".
    return {name.replace(" ", ""): value for name, value in fields.items()}


def _sizes(header: dict[str, Any], path: Path) -> tuple[int, ...]:
    sizes = tuple(int(n) for n in header.get("sizes", ()))
    if not sizes or min(sizes) < 1 or len(sizes) != header.get("dimension"):
        stated = f"dimension {header.get('dimension')} and sizes {list(sizes)[:16]}"
        raise InputError(f"{path} has a damaged NRRD header: {stated} do not agree")
    if len(sizes) < 3:
        raise InputError(f"{path} is a single image ({' x '.join(map(str, sizes))}); a volume was expected")
    if len(sizes) > 4:
        raise InputError(f"{path} has {len(sizes)} dimensions; split it into 3D or 4D files first")
    return sizes


def _dtype(header: dict[str, Any], path: Path) -> np.dtype[Any]:
    from nrrd.reader import _TYPEMAP_NRRD2NUMPY as TYPES

    name = str(header.get("type", ""))
    if TYPES.get(name, "V") == "V":
        raise InputError(f"{path} holds values of NRRD type {name[:40]!r}, which are no intensities")
    dtype: np.dtype[Any] = np.dtype(TYPES[name])
    if dtype.itemsize == 1:
        return dtype
    endian = str(header.get("endian", "")).lower()
    if endian not in _ENDIAN:
        raise InputError(f"{path} has a damaged NRRD header: endian must be little or big, found {endian[:20]!r}")
    return dtype.newbyteorder(_ENDIAN[endian])


def _axes(header: dict[str, Any], sizes: tuple[int, ...], path: Path) -> _Axes:
    kinds = [str(kind).lower() for kind in header.get("kinds", ())]
    if _COLOUR_KINDS & set(kinds):
        raise InputError(f"{path} holds colours (RGB), not intensities; convert it to one grey channel first")
    if "complex" in kinds:
        raise InputError(f"{path} holds complex numbers; write its magnitude to a file first")
    directions = header.get("spacedirections")
    if directions is not None and len(directions) != len(sizes):
        raise InputError(f"{path} has a damaged NRRD header: {len(directions)} space directions for {len(sizes)} axes")
    if directions is not None:
        space = [axis for axis, vector in enumerate(directions) if vector is not None and not np.isnan(vector).all()]
    elif len(kinds) == len(sizes):
        space = [axis for axis, kind in enumerate(kinds) if kind in _SPATIAL_KINDS]
    else:
        space = [0, 1, 2]
    if len(sizes) == 4 and len(space) == 4:  # time as a fourth space
        space = [0, 1, 2]
    if len(space) != 3:
        raise InputError(f"{path} has {len(space)} axes in space; a volume with three was expected")
    rest = [axis for axis in range(len(sizes)) if axis not in space]
    return _Axes((space[0], space[1], space[2]), rest[0] if rest else None)


def _affine(header: dict[str, Any], axes: _Axes, path: Path) -> tuple[NDArray[Any], tuple[str, ...]]:
    notes = []
    name = str(header.get("space", "")).lower().removesuffix("-time")
    if name not in _SPACES:
        notes.append("the header names no anatomical space: LPS is a guess" if not name else
                     "the header's space is not anatomical: it is taken as LPS")  # fmt: skip
    affine = np.eye(4)
    try:
        affine[:3, :3] = _columns(header, axes)
        origin = header.get("spaceorigin")
        if origin is not None:
            affine[:3, 3] = np.asarray(origin, dtype=np.float64)[:3]
    except (TypeError, ValueError, IndexError) as error:
        raise GeometryError(
            f"{path} has a damaged NRRD header: its space directions or origin are no 3D vectors"
        ) from error
    signs = np.array(_SPACES.get(name, _LPS), dtype=np.float64)
    affine[:3] *= (signs * _unit(header))[:, None]
    return affine, tuple(notes)


def _columns(header: dict[str, Any], axes: _Axes) -> NDArray[Any]:
    directions = header.get("spacedirections")
    if directions is not None:
        return np.stack([np.asarray(directions[axis], dtype=np.float64)[:3] for axis in axes.space], axis=1)
    spacings = header.get("spacings")
    if spacings is None:
        return np.eye(3)
    return np.diag([float(spacings[axis]) for axis in axes.space])


def _unit(header: dict[str, Any]) -> float:
    units = header.get("spaceunits") or ["mm"]
    return _MILLIMETRES.get(str(units[0]).strip().lower(), 1.0)


def _modality(header: dict[str, Any]) -> Modality:
    # 3D Slicer marks its label maps with keys such as "Segment0_ID".
    return Modality.LABEL if any(name.startswith("Segment0_") for name in header) else Modality.MR


def _thickness(header: dict[str, Any], axes: _Axes) -> float | None:
    values = [_number(header.get("thicknesses"), axis) for axis in axes.space]
    known = [value for value in values if value is not None]
    return known[-1] * _unit(header) if known else None


def _frame_step(header: dict[str, Any], axes: _Axes) -> float | None:
    if axes.frame is None:
        return None
    step = _number(header.get("spacings"), axes.frame)
    units = header.get("units") or []
    unit = str(units[axes.frame]).lower() if len(units) > axes.frame else "s"
    return None if step is None else step * _SECONDS.get(unit, 1.0)


def _number(values: Any, axis: int) -> float | None:
    """A positive finite entry of a per-axis field, if there is one."""
    if values is None or len(values) <= axis:
        return None
    value = float(values[axis])
    return value if math.isfinite(value) and value > 0 else None


def _data_place(header: dict[str, Any], source: Source, end: int, stored: int) -> tuple[Path, int, int, str]:
    """Path, start on disk, offset in the content, and compression of the voxels.

    Line skip and, for raw data, byte skip count bytes of the file; after compression, byte skip counts content.
    """
    encoding = str(header.get("encoding", "")).lower()
    if encoding not in _ENCODINGS:
        raise InputError(f"{source.path} stores its voxels as {encoding[:20]!r}; raw, gzip or bzip2 was expected")
    compression = _ENCODINGS[encoding]
    data, begin = source, end
    if "datafile" in header:
        data, begin = _open_beside(str(header["datafile"]), source.path), 0
    if data.compression and data is source:  # the whole file is packed: offsets count its content
        if compression:
            raise InputError(f"{source.path} is compressed twice; unpack it first")
        return source.path, 0, begin + _byte_skip(header, source.path, 0), data.compression
    begin += _skipped_lines(data.path, begin, _line_skip(header, source.path))
    if compression:
        return data.path, begin, _byte_skip(header, source.path, 0), compression
    from_end = max(data.size - stored, 0)
    skipped = _byte_skip(header, source.path, -1)
    return data.path, 0, from_end if skipped < 0 else begin + skipped, ""


def _byte_skip(header: dict[str, Any], path: Path, least: int) -> int:
    count = int(header.get("byteskip", 0))
    if count < least:
        raise InputError(f"{path} has a damaged NRRD header: byte skip {count}")
    return count


def _line_skip(header: dict[str, Any], path: Path) -> int:
    count = int(header.get("lineskip", 0))
    if not 0 <= count <= 10_000:
        raise InputError(f"{path} has a damaged NRRD header: line skip {count}")
    return count


def _skipped_lines(path: Path, begin: int, count: int) -> int:
    if count == 0:
        return 0
    with open_stream(path, start=begin) as stream:
        head = stream.read(1 << 20)
    lines = head.split(b"\n", count)
    if len(lines) <= count:
        raise InputError(f"{path} has fewer than the {count} lines that its NRRD header skips")
    return len(head) - len(lines[-1])


def _open_beside(name: str, header_path: Path) -> Source:
    """The data file that a header names, which must lie in the same folder or below it."""
    if name.upper().startswith("LIST") or "%" in name:
        raise InputError(f"{header_path} spreads its voxels over several files; join them first")
    folder = header_path.parent.resolve()
    try:
        target = (folder / name).resolve()
        inside = target.is_relative_to(folder)
    except (OSError, ValueError, RuntimeError):
        inside = False
    if not name or not inside:
        raise InputError(f"{header_path} names a data file outside its own folder; that is not followed")
    if not exists(target):
        raise InputError(f"{header_path} is the header of a pair; the data file that it names is not beside it")
    return open_source(target)
