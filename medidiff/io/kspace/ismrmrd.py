"""ISMRMRD: one profile (read-out line) after the other, each with its own header.

The documented layout is read with h5py directly: the ``ismrmrd`` package opens files for writing, builds an object a
profile, and trusts what a file declares. The tests write files with that package, and hold this reader against BART's.

Source: Inati et al. (2017), ISMRM Raw Data format: a proposed standard for MRI raw datasets, Magn. Reson. Med. 77, 411.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import GeometryError, InputError
from medidiff.geometry import Geometry
from medidiff.io.kspace.hdf5 import check_dataset, find, group_of, open_hdf5, read_bytes
from medidiff.io.kspace.header import MAX_MATRIX, MAX_XML_BYTES, Header, parse_header
from medidiff.io.kspace.model import ASSUMED_AXES, Array, KSpaceInfo, RawKSpace, check_samples, display_geometry, middle
from medidiff.io.kspace.reduce import without_oversampling
from medidiff.io.safety import check_budget, default_budget

# Bits of a profile's flags, counted from 1 as the standard does.
NOISE, CALIBRATION, CALIBRATION_AND_IMAGING, REVERSE = 19, 20, 21, 22
# Navigators, phase correction, feedback, dummies, surface-coil correction, phase stabilisation: no image data.
AUXILIARY = (23, 24, 26, 27, 28, 29, 30, 31)
# Counters that make images of their own; averages and segments belong to one image.
FRAME_COUNTERS = ("contrast", "phase", "repetition", "set")
MOST_PROFILES = 1 << 24
MOST_COILS = 256
# Directions are unit vectors at right angles within this.
DIRECTION_TOLERANCE = 1e-2


@dataclass(frozen=True, slots=True)
class _Layout:
    """Which profiles of a file go where.

    Args:
        header: Of the whole file.
        heads: Header of every profile.
        imaging: Which profiles are image data; ``calibration`` and ``noise`` likewise.
        frames: Index of the frame of every profile.
        count: Number of frames.
        lines: Place of every profile along the phase axes (j, k) of the full grid.
        volume: Two phase-encoding directions, instead of slices.
        shape: The full grid (i, j, k).
    """

    header: Header
    heads: NDArray[Any]
    imaging: NDArray[np.bool_]
    calibration: NDArray[np.bool_]
    noise: NDArray[np.bool_]
    frames: NDArray[np.int64]
    count: int
    lines: tuple[NDArray[np.int64], NDArray[np.int64]]
    volume: bool
    shape: tuple[int, int, int]

    @property
    def coils(self) -> int:
        return int(self.heads["active_channels"][self.imaging][0])


def probe(path: Path) -> KSpaceInfo:
    """What an ISMRMRD file holds, from its headers.

    Raises:
        InputError: it is damaged, or of a kind that cannot be reconstructed here; the message says why.
    """
    with open_hdf5(path) as file:
        _, layout = _open(file, path)
    return _info(layout, path)


def read(path: Path, budget: int | None = None) -> RawKSpace:
    """Read all profiles and lay them on their grid; averages are averaged, read-out oversampling is taken away.

    Raises:
        BudgetError: they would not fit into memory.
        InputError: see ``probe``.
    """
    with open_hdf5(path) as file:
        table, layout = _open(file, path)
        info = _info(layout, path)
        # Sums and counts while reading, then a copy without oversampling.
        check_budget(3 * layout.count * layout.coils * int(np.prod(layout.shape)) * 8, path, budget)
        block = int(np.clip(default_budget() // max(path.stat().st_size, 1), 1, 256))
        data, taken = _accumulate(table, layout, layout.imaging, layout.count, block, path)
        calibration = None
        if layout.calibration.any():
            calibration = _accumulate(table, layout, layout.calibration, 1, block, path)[0][0]
        covariance = _noise_covariance(table, layout, path)
    return without_oversampling(RawKSpace(info, data, taken, calibration, covariance))


def _open(file: Any, path: Path) -> tuple[Any, _Layout]:
    group = group_of(file, path)
    if group is None:
        raise InputError(f"{path} is no ISMRMRD file: no group with xml and data")
    text, table = find(group, "xml", path), find(group, "data", path)
    if text is None or table is None or not hasattr(table, "dtype") or not hasattr(text, "dtype"):
        raise InputError(f"{path} is no ISMRMRD file: xml and data are no data sets")
    check_dataset(text, path)
    check_dataset(table, path)
    header = parse_header(read_bytes(text, path, MAX_XML_BYTES), path)
    if not {"head", "traj", "data"} <= set(table.dtype.names or ()) or table.ndim != 1:
        raise InputError(f"{path} is no ISMRMRD file: its data is no list of profiles")
    if not 0 < table.shape[0] <= MOST_PROFILES:
        raise InputError(f"{path} holds {table.shape[0]} profiles; 1 to {MOST_PROFILES} are expected")
    heads = np.asarray(table.fields("head")[:])
    return table, _lay_out(header, heads, path)


def _lay_out(header: Header, heads: NDArray[Any], path: Path) -> _Layout:
    """Sort the profiles; refuse what is not Cartesian, with the reason."""
    flags = heads["flags"].astype(np.uint64)

    def flagged(*bits: int) -> NDArray[np.bool_]:
        mask = sum(1 << (bit - 1) for bit in bits)
        return np.asarray((flags & np.uint64(mask)) != 0)

    auxiliary = flagged(*AUXILIARY) | (heads["encoding_space_ref"] != 0)
    noise = flagged(NOISE)
    separate = flagged(CALIBRATION) & ~flagged(CALIBRATION_AND_IMAGING)
    imaging = ~(noise | auxiliary | separate)
    _check_kind(header, heads, imaging, flagged(REVERSE), path)
    chosen = heads[imaging]
    counters = chosen["idx"]
    _, frame = np.unique(np.stack([counters[name] for name in FRAME_COUNTERS], 1), axis=0, return_inverse=True)
    frames = np.zeros(len(heads), dtype=np.int64)
    frames[imaging] = frame.reshape(-1)
    volume = header.encoded.matrix[2] > 1
    slices = int(counters["slice"].max()) + 1
    if volume and slices > 1:
        raise InputError(f"{path} holds {slices} slabs of a 3D acquisition; one slab is expected: split the file")
    shape = (header.encoded.matrix[0], header.encoded.matrix[1], header.encoded.matrix[2] if volume else slices)
    lines = (
        _place(heads, header, "kspace_encode_step_1", "kspace_encoding_step_1", shape[1]),
        _place(heads, header, "kspace_encode_step_2", "kspace_encoding_step_2", shape[2])
        if volume
        else heads["idx"]["slice"].astype(np.int64),
    )
    layout = _Layout(
        header, heads, imaging, (separate | flagged(CALIBRATION_AND_IMAGING)) & ~auxiliary & ~noise & separate.any(),
        noise, frames, int(frames.max()) + 1, lines, volume, shape,
    )  # fmt: skip
    _check_places(layout, path)
    return layout


def _check_kind(
    header: Header, heads: NDArray[Any], imaging: NDArray[np.bool_], reverse: NDArray[np.bool_], path: Path
) -> None:
    if not imaging.any():
        raise InputError(f"{path} holds no image data: every profile is noise, calibration or navigation")
    if header.trajectory == "epi" or (reverse & imaging).any():
        raise InputError(
            f"{path} is echo-planar (lines read back and forth): its lines must be corrected for phase and regridded "
            "first, with the scanner's or Gadgetron's reconstruction"
        )
    if header.trajectory != "cartesian" or (heads["trajectory_dimensions"][imaging] > 0).any():
        raise InputError(
            f"{path} is not Cartesian (trajectory {header.trajectory[:20]!r}): only lines of a regular grid can be "
            "reconstructed; grid it first, e.g. with BART's nufft"
        )
    chosen = heads[imaging]
    for name, most in (("number_of_samples", MAX_MATRIX), ("active_channels", MOST_COILS)):
        found = np.unique(chosen[name])
        if len(found) != 1:
            raise InputError(f"{path}: profiles of one image differ in {name} ({found.min()} to {found.max()})")
        if not 1 <= found[0] <= most:
            raise InputError(f"{path}: {found[0]} for {name} cannot be")


def _place(heads: NDArray[Any], header: Header, counter: str, limit: str, size: int) -> NDArray[np.int64]:
    """Where a line lies: its counter, with the centre of k-space (from the limits) at ``size // 2``."""
    known = header.limits.get(limit)
    centre = known.centre if known is not None else size // 2
    return np.asarray(heads["idx"][counter].astype(np.int64) - centre + size // 2)


def _check_places(layout: _Layout, path: Path) -> None:
    chosen = layout.imaging | layout.calibration
    for name, places, size in zip(("first", "second"), layout.lines, layout.shape[1:], strict=True):
        if places[chosen].min() < 0 or places[chosen].max() >= size:
            raise InputError(
                f"{path}: its profiles reach from line {places[chosen].min()} to {places[chosen].max()} along the "
                f"{name} phase axis, its header promises {size}; header and profiles contradict each other"
            )
    samples, centre = layout.heads["number_of_samples"][chosen], layout.heads["center_sample"][chosen].astype(np.int64)
    start = layout.shape[0] // 2 - centre
    discarded = layout.heads["discard_post"][chosen]
    if (
        (centre >= samples).any()
        or (start + layout.heads["discard_pre"][chosen] < 0).any()
        or (start + samples - discarded > layout.shape[0]).any()
    ):
        raise InputError(
            f"{path}: profiles of {samples.max()} samples with the centre at {centre.max()} do not fit "
            f"into an encoded matrix of {layout.shape[0]}"
        )


def _info(layout: _Layout, path: Path) -> KSpaceInfo:
    header = layout.header
    warnings: list[str] = []
    full = _geometry(layout, path, warnings)
    crop = [slice(0, n) for n in layout.shape]
    words = []
    for axis in range(3 if layout.volume else 2):
        kept = round(layout.shape[axis] * min(1.0, header.recon.fov[axis] / header.encoded.fov[axis]))
        if 2 <= kept < layout.shape[axis]:
            crop[axis] = middle(layout.shape[axis], kept)
            words.append(
                f"{('Read-out', 'Phase', 'Slice')[axis]} oversampling is cut away: {layout.shape[axis]} to {kept} "
                f"voxels, as the header's field of view says."
            )
    start = tuple(part.start for part in crop)
    size = tuple(part.stop - part.start for part in crop)
    geometry = full.cropped((start[0], start[1], start[2]), (size[0], size[1], size[2]))
    lines = layout.imaging.sum() / layout.count
    kind = f"{layout.shape[1]} x {layout.shape[2]} phase encodes" if layout.volume else f"{layout.shape[2]} slices"
    words.insert(
        0,
        f"ISMRMRD raw data: {layout.coils} coils, {kind}, {lines:.0f} profiles an image"
        + (f", {layout.count} images." if layout.count > 1 else "."),
    )
    if header.encodings > 1:
        warnings.append(f"The header describes {header.encodings} encodings; only the first is reconstructed.")
    if layout.noise.any():
        words.append(f"{layout.noise.sum()} profiles of noise were measured; the coils are decorrelated by them.")
    return KSpaceInfo(
        "ISMRMRD", geometry, full, (crop[0], crop[1], crop[2]), layout.coils, layout.count,
        (0, 1, 2) if layout.volume else (0, 1), tuple(words), tuple(warnings),
    )  # fmt: skip


def _geometry(layout: _Layout, path: Path, warnings: list[str]) -> Geometry:
    """Where the voxels lie: directions and positions of the profiles are DICOM's (LPS), and end here."""
    chosen = layout.heads[layout.imaging]
    steps = list(layout.header.encoded.spacing)
    columns = np.stack([chosen[0][name].astype(np.float64) for name in ("read_dir", "phase_dir", "slice_dir")], 1)
    positions = np.stack(
        [
            chosen["position"][chosen["idx"]["slice"] == index][0].astype(np.float64)
            for index in np.unique(chosen["idx"]["slice"])
        ]
    )
    with np.errstate(all="ignore"):
        sound = np.isfinite(columns).all() and np.abs(columns.T @ columns - np.eye(3)).max() < DIRECTION_TOLERANCE
    if not sound or not np.isfinite(positions).all():
        warnings.append(ASSUMED_AXES)
        return display_geometry(layout.shape, (steps[0], steps[1], steps[2]))
    first = positions[0]
    if not layout.volume and len(positions) > 1:
        # Slices may have gaps; those of a stack lie along their normal at equal distances.
        along = positions @ columns[:, 2]
        distance = np.diff(along) / np.diff(np.unique(chosen["idx"]["slice"]))
        across = positions - positions[0] - np.outer(along - along[0], columns[:, 2])
        if np.ptp(distance) > 1e-2 * abs(distance.mean()) + 1e-3 or np.abs(across).max() > 0.1 * steps[0]:
            warnings.append("The slices do not lie at equal distances behind one another; equal ones are assumed.")
        if abs(distance.mean()) > 1e-3:
            steps[2] = float(distance.mean())
        else:
            warnings.append("All slices have one position; they are laid side by side.")
        first = first - columns[:, 2] * steps[2] * int(chosen["idx"]["slice"].min())
    affine = np.eye(4)
    affine[:3, :3] = columns * steps
    origin = np.array([layout.shape[0] // 2, layout.shape[1] // 2, layout.shape[2] // 2 if layout.volume else 0])
    affine[:3, 3] = first - affine[:3, :3] @ origin
    try:
        return Geometry(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, layout.shape)
    except GeometryError as error:
        raise InputError(f"{path}: {error}") from error


def _blocks(table: Any, chosen: NDArray[np.bool_], block: int) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """Samples of the chosen profiles in file order, a few at a time: indices and rows."""
    wanted = np.flatnonzero(chosen)
    for first in range(0, len(wanted), block):
        part = wanted[first : first + block]
        rows = table.fields("data")[part[0] : part[-1] + 1] if part[-1] - part[0] < 2 * block else None
        if rows is None:  # far apart: one after the other
            yield from ((np.array([n]), table.fields("data")[n : n + 1]) for n in part)
        else:
            yield part, rows[part - part[0]]


def _profile(samples: Any, head: Any, path: Path) -> Array:
    """Samples of one profile, complex, shape (coils, samples).

    Raises:
        InputError: there are more or fewer than its header says, or some are not finite.
    """
    count, coils = int(head["number_of_samples"]), int(head["active_channels"])
    values = np.asarray(samples, dtype=np.float32)
    if values.size != 2 * count * coils:
        raise InputError(f"{path}: a profile of {coils} coils and {count} samples holds {values.size} numbers")
    check_samples(values, path)
    return values.view(np.complex64).reshape(coils, count)


def _accumulate(
    table: Any, layout: _Layout, chosen: NDArray[np.bool_], frames: int, block: int, path: Path
) -> tuple[Array, NDArray[np.bool_]]:
    """Mean of the profiles at each place, shape (frames, coils, i, j, k), and where there were any."""
    data = np.zeros((frames, layout.coils, *layout.shape), dtype=np.complex64)
    counts = np.zeros((frames, *layout.shape), dtype=np.float32)
    for indices, rows in _blocks(table, chosen, block):
        for index, samples in zip(indices, rows, strict=True):
            head = layout.heads[index]
            line = _profile(samples, head, path)
            before, after = int(head["discard_pre"]), len(line[0]) - int(head["discard_post"])
            if before >= after or len(line) != layout.coils:
                raise InputError(f"{path}: a profile throws all of its samples away, or differs in its coils")
            start = layout.shape[0] // 2 - int(head["center_sample"])
            frame = layout.frames[index] if frames > 1 else 0
            j, k = layout.lines[0][index], layout.lines[1][index]
            data[frame, :, start + before : start + after, j, k] += line[:, before:after]
            counts[frame, start + before : start + after, j, k] += 1
    data /= np.maximum(counts, 1)[:, None]
    return data, counts > 0


def _noise_covariance(table: Any, layout: _Layout, path: Path) -> Array | None:
    """Covariance of the coils in the noise scan, at the bandwidth of the image data; None if there is too little."""
    total, count = np.zeros((layout.coils, layout.coils), dtype=np.complex128), 0
    for indices, rows in _blocks(table, layout.noise, 8):
        for index, samples in zip(indices, rows, strict=True):
            head = layout.heads[index]
            if int(head["active_channels"]) != layout.coils:
                return None
            line = _profile(samples, head, path).astype(np.complex128)
            total += line @ line.conj().T
            count += line.shape[1]
    if count < 8 * layout.coils:
        return None
    # The variance of a sample goes with the bandwidth, one over the time between samples.
    own, image = layout.heads["sample_time_us"][layout.noise][0], layout.heads["sample_time_us"][layout.imaging][0]
    ratio = float(own / image) if own > 0 and image > 0 and np.isfinite(own / image) else 1.0
    return np.asarray(total / count * ratio)
