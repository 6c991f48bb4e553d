"""fastMRI's HDF5: an array ``kspace`` of slices, coils, read-out and phase, and an ISMRMRD header for the grid.

Source: Zbontar et al. (2018), fastMRI: an open dataset and benchmarks for accelerated MRI, sec. 4.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.io.kspace.hdf5 import check_dataset, find, open_hdf5, read_bytes
from medidiff.io.kspace.header import MAX_XML_BYTES, Header, parse_header
from medidiff.io.kspace.ismrmrd import MOST_COILS
from medidiff.io.kspace.model import ASSUMED_AXES, KSpaceInfo, RawKSpace, check_samples, display_geometry, middle
from medidiff.io.kspace.reduce import without_oversampling
from medidiff.io.safety import check_budget


def probe(path: Path) -> KSpaceInfo:
    """What a fastMRI file holds, from its header.

    Raises:
        InputError: it is damaged or contradicts itself.
    """
    with open_hdf5(path) as file:
        return _info(file, path)


def read(path: Path, budget: int | None = None) -> RawKSpace:
    """Read all slices; read-out oversampling is taken away.

    Raises:
        BudgetError: they would not fit into memory.
        InputError: see ``probe``.
    """
    with open_hdf5(path) as file:
        info = _info(file, path)
        check_budget(3 * info.bytes_needed, path, budget)
        stored = _samples(file, path)[()]
        given = _mask(file, stored.shape[-1], path)
    samples = stored[:, None] if stored.ndim == 3 else stored
    data = np.ascontiguousarray(samples.transpose(1, 2, 3, 0)[None], dtype=np.complex64)
    check_samples(data, path)
    mask = (data != 0).any(axis=1)
    if given is not None:
        # The full k-space with a mask beside it: what the mask leaves out was not measured.
        mask &= given[None, None, :, None]
        data *= mask[:, None]
    if not mask.any():
        raise InputError(f"{path} holds no sample: all are zero")
    # A sample of a line that is zero by chance was taken all the same.
    mask = np.broadcast_to(mask.any(axis=1, keepdims=True), mask.shape).copy()
    return without_oversampling(RawKSpace(info, data, mask))


def _samples(file: Any, path: Path) -> Any:
    samples = find(file, "kspace", path)
    if samples is None or not hasattr(samples, "dtype"):
        raise InputError(f"{path} is no fastMRI file: it has no data set kspace")
    check_dataset(samples, path)
    if samples.dtype.kind != "c" or samples.ndim not in (3, 4):
        raise InputError(
            f"{path}: kspace should be complex (slices, [coils,] read-out, phase), it is {samples.dtype} of "
            f"{samples.shape}"
        )
    return samples


def _mask(file: Any, lines: int, path: Path) -> NDArray[np.bool_] | None:
    mask = find(file, "mask", path)
    if mask is None or not hasattr(mask, "dtype"):
        return None
    check_dataset(mask, path)
    if mask.shape != (lines,) or mask.dtype.kind not in "biuf":
        raise InputError(f"{path}: its mask of {mask.shape} does not fit {lines} lines")
    return np.asarray(mask[()]) > 0.5


def _header(file: Any, path: Path) -> Header | None:
    text = find(file, "ismrmrd_header", path)
    if text is None or not hasattr(text, "dtype"):
        return None
    check_dataset(text, path)
    return parse_header(read_bytes(text, path, MAX_XML_BYTES), path)


def _info(file: Any, path: Path) -> KSpaceInfo:
    samples = _samples(file, path)
    slices, coils = samples.shape[0], samples.shape[1] if samples.ndim == 4 else 1
    i, j = samples.shape[-2:]
    if min(i, j) < 8 or slices < 1 or not 1 <= coils <= MOST_COILS:
        raise InputError(f"{path}: kspace of {samples.shape} is no acquisition of slices")
    header = _header(file, path)
    warnings = [ASSUMED_AXES]
    crop = [slice(0, i), slice(0, j)]
    spacing = (1.0, 1.0, 1.0)
    words = [f"fastMRI raw data: {coils} coil{'s' if coils > 1 else ''}, {slices} slices of {i} x {j} samples."]
    if header is None:
        warnings.append("The file has no ISMRMRD header: voxels of 1 mm are assumed, and nothing is cut away.")
    else:
        if header.trajectory not in ("cartesian", ""):
            raise InputError(f"{path} is not Cartesian (trajectory {header.trajectory[:20]!r}); grid it first")
        # Lines may be padded or cut in the array; the field of view does not change by that.
        spacing = (
            header.encoded.fov[0] / i,
            header.encoded.fov[1] / j,
            header.encoded.fov[2] / header.encoded.matrix[2],
        )
        for axis, (n, name) in enumerate(((i, "Read-out"), (j, "Phase"))):
            kept = round(n * min(1.0, header.recon.fov[axis] / header.encoded.fov[axis]))
            if 2 <= kept < n:
                crop[axis] = middle(n, kept)
                words.append(
                    f"{name} oversampling is cut away: {n} to {kept} voxels, as the header's field of view says."
                )
        warnings.append("The header knows no gap between slices: they are assumed to touch.")
    emulated = coils == 1 and "reconstruction_esc" in file
    if emulated:
        words.append("The single coil was emulated from several: this is no measurement of one coil.")
    full = display_geometry((i, j, slices), spacing)
    sizes = tuple(part.stop - part.start for part in crop)
    geometry = full.cropped((crop[0].start, crop[1].start, 0), (sizes[0], sizes[1], slices))
    return KSpaceInfo(
        "fastMRI", geometry, full, (crop[0], crop[1], slice(0, slices)), coils, 1, (0, 1), tuple(words),
        tuple(warnings), emulated,
    )  # fmt: skip
