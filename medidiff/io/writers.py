"""Writing volumes: the same bytes for the same volume, in the right place, without a word about the patient."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from medidiff import __version__
from medidiff.errors import OutputError
from medidiff.io.atomic import atomic_file
from medidiff.volume import Modality, Volume

_SCANNER = 1
_INTENT_LABEL = 1002
_NIFTI1_MOST = 32767
# NumPy's names of integer types are words of NRRD too; NIfTI knows the same ones.
_NRRD_TYPES = {f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_NRRD_TYPES |= {"float32": "float", "float64": "double"}


def write_nifti(
    volume: Volume, path: Path, dtype: np.dtype[Any], frame_step: float | None, *, description: str = ""
) -> None:
    """NIfTI-1, or NIfTI-2 where an axis is too long for it.

    Args:
        volume, path, dtype, frame_step: As ``write_volume``.
        description: What the header's 80 characters of text say instead of the version alone.
    Raises:
        OutputError: the values do not fit the type, or the file cannot be written.
    """
    import nibabel

    if dtype.name not in _NRRD_TYPES:  # the same numbers
        raise OutputError(f"cannot write {path}: NIfTI has no type for {dtype}; use float32 or an integer")
    data = _frames_last(_stored(volume.data, dtype, path, scalable=True))
    kind: Any = nibabel.Nifti1Image if max(data.shape) <= _NIFTI1_MOST else nibabel.Nifti2Image
    image: Any = kind(data, None, dtype=dtype)
    affine = volume.geometry.affine
    image.set_sform(affine, _SCANNER)
    # A quaternion cannot express a shear; half an orientation would be worse than none.
    image.set_qform(affine, _SCANNER if volume.geometry.is_orthogonal else 0, strip_shears=True)
    header: Any = image.header
    if data.ndim == 4:
        header.set_zooms((*volume.geometry.spacing, frame_step or 1.0))
    header.set_xyzt_units("mm", "sec" if data.ndim == 4 and frame_step else None)
    header["descrip"] = (description or f"medidiff {__version__}").encode("ascii", "replace")[:79]
    if volume.modality is Modality.LABEL:
        header.set_intent(_INTENT_LABEL)
    with open_output(path) as file:
        _serialise(image, file, path)


def _serialise(image: Any, file: IO[bytes], path: Path) -> None:
    """nibabel computes the scaling while it writes, and gives up in several ways."""
    from nibabel.arraywriters import WriterError
    from nibabel.spatialimages import HeaderDataError

    try:
        image.to_stream(file)
    except (WriterError, HeaderDataError) as error:
        raise OutputError(f"cannot write {path}: its values cannot be scaled ({error}); use float32") from error


def write_mgh(volume: Volume, path: Path, dtype: np.dtype[Any], frame_step: float | None) -> None:
    """MGH, or MGZ by its name.

    Raises:
        OutputError: the format has no such type, the values do not fit, or the file cannot be written.
    """
    import nibabel

    if dtype.name not in ("float32", "uint8", "int16", "int32"):
        raise OutputError(f"cannot write {path}: MGH holds float32, uint8, int16 or int32, not {dtype}")
    data = _frames_last(_stored(volume.data, dtype, path, scalable=False)).astype(dtype, copy=False)
    kind: Any = nibabel.MGHImage
    image = kind(data, volume.geometry.affine)
    image.header.set_data_dtype(dtype)
    if data.ndim == 4 and frame_step:
        image.header.set_zooms((*volume.geometry.spacing, frame_step * 1000))
    with open_output(path) as file:
        image.to_stream(file)


def write_nrrd(volume: Volume, path: Path, dtype: np.dtype[Any], frame_step: float | None) -> None:
    """NRRD with the voxels in the same file, gzip-packed, in LPS, which every reader of the format knows.

    Raises:
        OutputError: the format has no such type, the values do not fit, or the file cannot be written.
    """
    if dtype.name not in _NRRD_TYPES:
        raise OutputError(f"cannot write {path}: NRRD has no type for {dtype}; use float32 or an integer")
    data = _frames_last(_stored(volume.data, dtype, path, scalable=False))
    header = _nrrd_header(volume, data, dtype, frame_step)
    with open_output(path, packed=False) as file:
        file.write(header.encode("ascii"))
        with _gzip(file) as stream:
            for slab in np.moveaxis(data, -1, 0):  # the last axis is the slowest in the file
                stream.write(slab.astype(dtype.newbyteorder("<"), copy=False).tobytes(order="F"))


def _nrrd_header(volume: Volume, data: NDArray[Any], dtype: np.dtype[Any], frame_step: float | None) -> str:
    lps = np.diag([-1.0, -1.0, 1.0]) @ volume.geometry.affine[:3]
    vectors = [_vector(lps[:, axis]) for axis in range(3)]
    kinds = ["domain"] * 3
    if data.ndim == 4:
        vectors.append("none")
        kinds.append("list")
    lines = [
        "NRRD0004",
        f"# medidiff {__version__}",
        f"type: {_NRRD_TYPES[dtype.name]}",
        f"dimension: {data.ndim}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(str(n) for n in data.shape)}",
        f"space directions: {' '.join(vectors)}",
        f"kinds: {' '.join(kinds)}",
        "endian: little",
        "encoding: gzip",
        f"space origin: {_vector(lps[:, 3])}",
    ]
    if data.ndim == 4 and frame_step:
        lines += [f"spacings: nan nan nan {float(frame_step)!r}", 'units: "" "" "" "s"']
    return "\n".join(lines) + "\n\n"


def _vector(values: NDArray[Any]) -> str:
    # Adding zero turns -0.0 into 0.0; repr keeps every digit.
    return f"({','.join(repr(float(value) + 0.0) for value in values)})"


def _frames_last(data: NDArray[Any]) -> NDArray[Any]:
    """(c, i, j, k) as the formats have it: (i, j, k) or (i, j, k, c)."""
    return data[0] if data.shape[0] == 1 else np.moveaxis(data, 0, -1)


def _stored(data: NDArray[Any], dtype: np.dtype[Any], path: Path, *, scalable: bool) -> NDArray[Any]:
    """The numbers as they will lie in the file, where they fit its type exactly.

    Raises:
        OutputError: they do not fit, and the format has no scaling.
    """
    if data.dtype.kind not in "biuf":
        raise OutputError(f"cannot write {path}: values of type {data.dtype} are no intensities")
    if dtype.kind == "f":
        return _floats(data, dtype, path)
    if not np.isfinite(data).all():
        raise OutputError(f"cannot write {path}: NaN or infinity has no place in {dtype}; use float32")
    limits = np.iinfo(dtype)
    if data.min() >= limits.min and data.max() <= limits.max and np.array_equal(data, np.rint(data)):
        return data.astype(dtype)
    if not scalable:
        raise OutputError(f"cannot write {path}: its values do not fit {dtype}, and the format has no scaling")
    return data


def _floats(data: NDArray[Any], dtype: np.dtype[Any], path: Path) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        floats = data.astype(dtype, copy=False)
    if data.dtype.itemsize > dtype.itemsize and np.isinf(floats).sum() > np.isinf(data).sum():
        raise OutputError(f"cannot write {path}: it has values beyond the end of {dtype}; use float64")
    return floats


@contextmanager
def open_output(path: Path, *, packed: bool | None = None) -> Iterator[IO[bytes]]:
    """A file that takes the place of ``path`` at the end; packed if its name says so."""
    pack = path.name.lower().endswith((".gz", ".mgz")) if packed is None else packed
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        if pack:
            with _gzip(file) as stream:
                yield stream
        else:
            yield file


@contextmanager
def _gzip(file: IO[bytes]) -> Iterator[IO[bytes]]:
    # Neither time nor name in the header: the same volume gives the same bytes.
    with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=6, mtime=0) as stream:
        yield cast(IO[bytes], stream)
