"""Raw-data files for tests, written by the ``ismrmrd`` package and by h5py, from k-space that is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

HEADER = """<?xml version="1.0" encoding="utf-8"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
  <subjectInformation><patientName>Secret^Person</patientName></subjectInformation>
  <experimentalConditions><H1resonanceFrequency_Hz>63500000</H1resonanceFrequency_Hz></experimentalConditions>
  <encoding>
    <encodedSpace><matrixSize><x>{x}</x><y>{y}</y><z>{z}</z></matrixSize>
      <fieldOfView_mm><x>{fx}</x><y>{fy}</y><z>{fz}</z></fieldOfView_mm></encodedSpace>
    <reconSpace><matrixSize><x>{rx}</x><y>{ry}</y><z>{z}</z></matrixSize>
      <fieldOfView_mm><x>{rfx}</x><y>{rfy}</y><z>{fz}</z></fieldOfView_mm></reconSpace>
    <encodingLimits>
      <kspace_encoding_step_1><minimum>0</minimum><maximum>{ymax}</maximum><center>{ycentre}</center>
      </kspace_encoding_step_1>
      <kspace_encoding_step_2><minimum>0</minimum><maximum>{zmax}</maximum><center>{zcentre}</center>
      </kspace_encoding_step_2>
    </encodingLimits>
    <trajectory>{trajectory}</trajectory>
  </encoding>
</ismrmrdHeader>
"""


@dataclass(frozen=True)
class Layout:
    """Options of a file; the defaults are a plain, fully sampled stack.

    Args:
        spacing: Voxels, mm.
        oversampling: Of the read-out: the image lies in the middle of so many times its size.
        lines: Which phase lines are written.
        volume: The last axis is a second phase encode, not slices.
        gap: Distance of slices over their thickness.
        centre: Index of the central line as counted in the file.
        directions: Read, phase and slice direction (LPS), rows.
        origin: Position of the first slice, or of the slab (LPS), mm.
        trajectory: As the header names it.
        flags: Flags by profile, added to all of them.
        noise: Noise profiles to write before, shape (profiles, coils, samples).
        separate: Calibration profiles: lines written once more with the flag that keeps them out of the image.
        averages: How often every profile is written.
        partial_echo: Samples missing at the beginning of every read-out.
        astray: Lines by which profiles miss their place.
    """

    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    oversampling: int = 1
    lines: tuple[int, ...] | None = None
    volume: bool = False
    gap: float = 1.0
    centre: int | None = None
    directions: tuple[tuple[float, float, float], ...] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    origin: tuple[float, float, float] = (10.0, -20.0, 30.0)
    trajectory: str = "cartesian"
    flags: tuple[int, ...] = ()
    noise: Array | None = None
    separate: tuple[int, ...] = ()
    averages: int = 1
    partial_echo: int = 0
    astray: int = 0


def to_kspace(image: Array, axes: tuple[int, ...]) -> Array:
    """NumPy's transform with frequency zero and the image's origin in the middle, orthonormal."""
    moved = np.fft.fftn(np.fft.ifftshift(image, axes=axes), axes=axes, norm="ortho")
    return np.fft.fftshift(moved, axes=axes).astype(np.complex64)


def write_ismrmrd(path: Path, image: Array, layout: Layout = Layout()) -> Array:
    """Write coil images (coils, i, j, k) as profiles with the ``ismrmrd`` package; returns the k-space written."""
    import ismrmrd

    coils, i, j, k = image.shape
    wide = i * layout.oversampling
    padded = np.zeros((coils, wide, j, k), dtype=np.complex64)
    first = wide // 2 - i // 2
    padded[:, first : first + i] = image
    samples = to_kspace(padded, (1, 2, 3) if layout.volume else (1, 2))
    si, sj, sk = layout.spacing
    centre = j // 2 if layout.centre is None else layout.centre
    text = HEADER.format(
        x=wide, y=j, z=k if layout.volume else 1, fx=si * wide, fy=sj * j, fz=sk * (k if layout.volume else 1),
        rx=i, ry=j, rfx=si * i, rfy=sj * j, ymax=j - 1, ycentre=centre, zmax=k - 1, zcentre=k // 2,
        trajectory=layout.trajectory,
    )  # fmt: skip
    with ismrmrd.Dataset(str(path), "dataset", mode="w") as file:
        file.write_xml_header(text.encode())
        for line in () if layout.noise is None else layout.noise:
            noise = _profile(ismrmrd, line, layout)
            noise.setFlag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
            file.append_acquisition(noise)
        chosen = range(j) if layout.lines is None else layout.lines
        for n in range(k):
            for line, separate in [(line, True) for line in layout.separate] + [(line, False) for line in chosen]:
                for average in range(layout.averages):
                    profile = _profile(ismrmrd, samples[:, layout.partial_echo :, line, n], layout)
                    profile.center_sample = wide // 2 - layout.partial_echo
                    profile.idx.kspace_encode_step_1 = line - j // 2 + centre + layout.astray
                    profile.idx.kspace_encode_step_2 = n if layout.volume else 0
                    profile.idx.slice = 0 if layout.volume else n
                    profile.idx.average = average
                    step = 0.0 if layout.volume else n * sk * layout.gap
                    profile.position[:] = [
                        a + step * b for a, b in zip(layout.origin, layout.directions[2], strict=True)
                    ]
                    for flag in layout.flags:
                        profile.setFlag(flag)
                    if separate:
                        profile.setFlag(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
                    file.append_acquisition(profile)
    return samples


def _profile(ismrmrd: Any, data: Array, layout: Layout) -> Any:
    profile = ismrmrd.Acquisition.from_array(np.ascontiguousarray(data, dtype=np.complex64))
    profile.read_dir[:], profile.phase_dir[:], profile.slice_dir[:] = layout.directions
    profile.sample_time_us = 5.0
    return profile


def write_fastmri(
    path: Path, image: Array, *, oversampling: int = 2, mask: Array | None = None, header: bool = True
) -> Array:
    """Write coil images (coils, i, j, k) as fastMRI does; a single coil loses its axis. Returns the k-space."""
    import h5py

    coils, i, j, k = image.shape
    wide = i * oversampling
    padded = np.zeros((coils, wide, j, k), dtype=np.complex64)
    padded[:, wide // 2 - i // 2 : wide // 2 - i // 2 + i] = image
    samples = to_kspace(padded, (1, 2)).transpose(3, 0, 1, 2)
    with h5py.File(path, "w") as file:
        file["kspace"] = samples if coils > 1 else samples[:, 0]
        if mask is not None:
            file["mask"] = mask
        if header:
            file["ismrmrd_header"] = HEADER.format(
                x=wide, y=j, z=1, fx=1.0 * wide, fy=1.0 * j, fz=4.0, rx=i, ry=j, rfx=1.0 * i, rfy=1.0 * j, ymax=j - 1,
                ycentre=j // 2, zmax=0, zcentre=0, trajectory="cartesian",
            )  # fmt: skip
        file.attrs["patient_id"] = "secret"
    return samples
