"""NIfTI-1 and NIfTI-2, single files and .hdr/.img pairs."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.io.declared import Declared, check_stored_type, check_volume_sizes, spatial_geometry
from medidiff.io.info import IntensityScaling, VolumeInfo
from medidiff.io.source import Source, exists, open_source
from medidiff.volume import Modality

_MAGIC_AT = {"nifti1": (344, (b"n+1\0", b"ni1\0")), "nifti2": (4, (b"n+2\0", b"ni2\0"))}
_HEADER_BYTES = {"nifti1": 348, "nifti2": 540}
_SECONDS = {8: 1.0, 16: 1e-3, 24: 1e-6}
_MILLIMETRES = {1: 1000.0, 2: 1.0, 3: 1e-3}
_INTENT_LABEL = 1002

# sform and qform of one grid differ by rounding only; half a voxel is another place.
_FORM_TOLERANCE = 0.5


def recognises(head: bytes) -> bool:
    """Whether the content begins as a NIfTI header does."""
    return _version(head) is not None


def declare(source: Source) -> Declared:
    """What the header claims.

    Raises:
        InputError: the header is damaged, or describes something that is no 3D scan.
        GeometryError: the affine cannot be used.
    """
    version = _version(source.head)
    if version is None:
        raise InputError(f"{source.path} is not a NIfTI file")
    header = _parse(source, version)
    sizes = _sizes(header, source.path)
    dtype = _dtype(header, source.path)
    affine, notes = _affine(header, source.path)
    unit = _MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
    affine[:3] *= unit
    geometry = spatial_geometry(affine, (sizes[0], sizes[1], sizes[2]), source.path)
    frames = sizes[3] if len(sizes) == 4 else 1
    info = VolumeInfo(
        format=version,
        geometry=geometry,
        frames=frames,
        dtype=dtype.name,
        modality=Modality.LABEL if int(header["intent_code"]) == _INTENT_LABEL else Modality.MR,
        scaling=_scaling(header, source.path),
        frame_step=_frame_step(header) if frames > 1 else None,
        notes=(*notes, *_spacing_notes(header, geometry.spacing, unit)),
    )
    data, offset = _data_place(header, source, version)
    return Declared(
        info=info,
        sizes=sizes,
        dtype=dtype,
        frame_axis=3 if len(sizes) == 4 else None,
        data_path=data.path,
        start=0,
        offset=offset,
        compression=data.compression,
    )


def _version(head: bytes) -> str | None:
    for version, (at, magics) in _MAGIC_AT.items():
        if head[at : at + 4] in magics and len(head) >= _HEADER_BYTES[version]:
            return version
    return None


def _parse(source: Source, version: str) -> Any:
    """A header with nibabel's own repairs (negative pixdim, unknown codes), as ``nibabel.load`` makes them."""
    import nibabel

    kind: Any = nibabel.Nifti1Header if version == "nifti1" else nibabel.Nifti2Header
    silent = logging.getLogger("medidiff.io.nifti.repairs")
    silent.disabled = True
    try:
        header = kind(source.head[: _HEADER_BYTES[version]], check=False)
        header.check_fix(logger=silent, error_level=40)
    except Exception as error:
        raise InputError(f"{source.path} has a damaged NIfTI header ({_one_line(error)})") from error
    return header


def _sizes(header: Any, path: Path) -> tuple[int, ...]:
    dim = [int(n) for n in header["dim"]]
    if not 1 <= dim[0] <= 7:
        raise InputError(f"{path} has a damaged NIfTI header: it claims {dim[0]} dimensions, 3 or 4 were expected")
    sizes = dim[1 : 1 + dim[0]]
    if min(sizes) < 1:
        raise InputError(f"{path} has a damaged NIfTI header: sizes {sizes} must all be positive")
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) == 5 and sizes[3] == 1:  # a vector image: NIfTI puts its components on the fifth axis
        sizes.pop(3)
    check_volume_sizes(tuple(sizes), path)
    if len(sizes) > 4:
        raise InputError(f"{path} has {len(sizes)} dimensions {tuple(sizes)}; split it into 3D or 4D files first")
    return tuple(sizes)


def _dtype(header: Any, path: Path) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
    except Exception as error:
        code = int(header["datatype"])
        raise InputError(f"{path} has a damaged NIfTI header: unknown data type code {code}") from error
    check_stored_type(dtype, path)
    return dtype


def _affine(header: Any, path: Path) -> tuple[NDArray[Any], list[str]]:
    """sform if it has a code, else qform, else pixdim alone: the order of nibabel."""
    sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
    notes = []
    try:
        if sform_code == 0 and qform_code == 0:
            notes.append("the header has no orientation (qform and sform codes are 0): left and right are a guess")
            return np.asarray(header.get_base_affine(), dtype=np.float64), notes
        if sform_code == 0:
            return np.asarray(header.get_qform(), dtype=np.float64), notes
        sform = np.asarray(header.get_sform(), dtype=np.float64)
    except Exception as error:
        raise InputError(f"{path} has an orientation that cannot be used ({_one_line(error)})") from error
    if qform_code:
        note = _disagreement(header, sform)
        notes += [note] if note else []
    return sform, notes


def _disagreement(header: Any, sform: NDArray[Any]) -> str | None:
    try:
        qform = header.get_qform()
    except Exception as error:  # noqa: BLE001 - the sform is there, the qform is only compared
        return f"the qform cannot be used ({_one_line(error)}); the sform is taken"
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=float)
    corners[:, :3] *= np.array(header.get_data_shape()[:3]) - 1
    with np.errstate(all="ignore"):
        apart = np.linalg.norm(corners @ (sform - qform).T, axis=1).max()
        voxel = np.linalg.norm(sform[:3, :3], axis=0).min()
    if apart <= _FORM_TOLERANCE * voxel:
        return None
    # A scan registered to a template may carry both on purpose.
    return f"qform and sform put the volume in different places (up to {apart:.3g} mm apart); the sform is taken"


def _spacing_notes(header: Any, spacing: tuple[float, ...], unit: float) -> list[str]:
    pixdim = np.abs(np.asarray(header["pixdim"][1:4], dtype=float)) * unit
    if np.allclose(pixdim, spacing, rtol=1e-2, atol=1e-4):
        return []
    said, used = pixdim.round(4).tolist(), np.round(spacing, 4).tolist()
    return [f"pixdim says {said} mm, the affine {used} mm; the affine is taken"]


def _scaling(header: Any, path: Path) -> IntensityScaling:
    try:
        slope, intercept = header.get_slope_inter()
    except Exception as error:
        raise InputError(f"{path} has an intensity scaling that is not finite") from error
    if math.isinf(float(header["scl_slope"])):  # NaN is how nibabel itself says "no scaling"
        raise InputError(f"{path} has an intensity scaling that is not finite")
    return IntensityScaling() if slope is None else IntensityScaling(float(slope), float(intercept))


def _frame_step(header: Any) -> float | None:
    step = float(header["pixdim"][4]) * _SECONDS.get(int(header["xyzt_units"]) & 56, 1.0)
    return step if math.isfinite(step) and step > 0 else None


def _data_place(header: Any, source: Source, version: str) -> tuple[Source, int]:
    """The file with the voxels, and where they begin in its content."""
    raw = float(header["vox_offset"])
    if not math.isfinite(raw) or raw < 0 or raw != int(raw):
        raise InputError(f"{source.path} has a damaged NIfTI header: voxels cannot begin at byte {raw}")
    offset = int(raw)
    if bytes(header["magic"].item())[:2] == b"ni":
        return _open_image(source), offset
    smallest = _HEADER_BYTES[version] + 4
    if 0 < offset < smallest:
        raise InputError(f"{source.path} has a damaged NIfTI header: voxels begin at byte {offset}, inside the header")
    return source, offset or smallest


def _open_image(source: Source) -> Source:
    stem = _stem(source.path)
    for suffix in (".img", ".img.gz", ".IMG"):
        candidate = source.path.with_name(stem + suffix)
        if exists(candidate):
            return open_source(candidate)
    raise InputError(f"{source.path} is the header of a pair; its image file {stem}.img is not beside it")


def header_beside(path: Path) -> Path | None:
    """The .hdr file of a pair, for the name of its .img file."""
    name = path.name.lower()
    if not name.endswith((".img", ".img.gz")):
        return None
    for suffix in (".hdr", ".hdr.gz", ".HDR"):
        candidate = path.with_name(_stem(path) + suffix)
        if exists(candidate):
            return candidate
    return None


def _stem(path: Path) -> str:
    name = path.name[:-3] if path.name.lower().endswith(".gz") else path.name
    return Path(name).stem


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
