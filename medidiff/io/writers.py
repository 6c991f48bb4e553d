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


def write_nifti(volume: Volume, path: Path, dtype: np.dtype[Any], frame_step: float | None) -> None:
    """NIfTI-1, or NIfTI-2 where an axis is too long for it.

    Raises:
        OutputError: the values do not fit the type, or the file cannot be written.
    """
    import nibabel

    data = _stored(volume.data, dtype, path, scalable=True)
    frames = data.shape[0]
    data = data[0] if frames == 1 else np.moveaxis(data, 0, -1)
    kind = nibabel.Nifti1Image if max(data.shape) <= _NIFTI1_MOST else nibabel.Nifti2Image
    image = kind(data, None, dtype=dtype)
    header = image.header
    affine = volume.geometry.affine
    image.set_sform(affine, _SCANNER)
    # A quaternion cannot express a shear; half an orientation would be worse than none.
    image.set_qform(affine, _SCANNER if volume.geometry.is_orthogonal else 0, strip_shears=True)
    header.set_xyzt_units("mm", "sec" if frames > 1 and frame_step else None)
    header.set_zooms((*volume.geometry.spacing, frame_step or 1.0) if frames > 1 else volume.geometry.spacing)
    header["descrip"] = f"medidiff {__version__}".encode()
    if volume.modality is Modality.LABEL:
        header.set_intent(_INTENT_LABEL)
    with atomic_file(path) as temporary, _open_output(temporary, path) as file:
        image.to_stream(file)


def _stored(data: NDArray[Any], dtype: np.dtype[Any], path: Path, *, scalable: bool) -> NDArray[Any]:
    """The numbers as they will lie in the file, where they fit its type exactly.

    Raises:
        OutputError: they do not fit, and the format has no scaling.
    """
    if dtype.kind == "f":
        return data
    if dtype.kind not in "iu":
        raise OutputError(f"cannot write {path}: {dtype} is no type for intensities; use float32 or an integer")
    if not np.isfinite(data).all():
        raise OutputError(f"cannot write {path}: NaN or infinity has no place in {dtype}; use float32")
    limits = np.iinfo(dtype)
    if data.min() >= limits.min and data.max() <= limits.max and np.array_equal(data, np.rint(data)):
        return data.astype(dtype)
    if not scalable:
        raise OutputError(f"cannot write {path}: its values do not fit {dtype}, and the format has no scaling; use float32")
    return data


@contextmanager
def _open_output(temporary: Path, target: Path) -> Iterator[IO[bytes]]:
    with temporary.open("wb") as file:
        if target.name.lower().endswith((".gz", ".mgz")):
            # Neither time nor name in the gzip header: the same volume gives the same bytes.
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=6, mtime=0) as stream:
                yield cast(IO[bytes], stream)
        else:
            yield file
