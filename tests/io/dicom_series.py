"""Small DICOM series with known truth, made from the MR and CT files that pydicom ships."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid

Array = NDArray[Any]
TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"

AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


def template(name: str = "MR_small.dcm") -> Dataset:
    """One of pydicom's packaged files, read anew."""
    return pydicom.dcmread(TEST_FILES / name)


def phantom(slices: int = 6, rows: int = 10, columns: int = 8, seed: int = 0) -> Array:
    """Stored numbers, shape (k, rows, columns), no two slices alike."""
    return np.random.default_rng(seed).integers(0, 2000, (slices, rows, columns), dtype=np.uint16)


def write_series(
    folder: Path,
    stored: Array,
    *,
    base: str = "MR_small.dcm",
    directions: tuple[Sequence[float], Sequence[float]] = AXIAL,
    origin: Sequence[float] = (-10.0, -20.0, 30.0),
    step: Sequence[float] | None = None,
    positions: Sequence[Sequence[float]] | None = None,
    spacing: tuple[float, float] = (1.5, 1.25),
    gap: float = 3.0,
    series_uid: str | None = None,
    first_number: int = 1,
    prefix: str = "im",
    change: Callable[[Dataset, int], None] | None = None,
) -> list[Path]:
    """Write a classic series, one slice a file, file names in no useful order.

    Args:
        folder: Where to.
        stored: Numbers, shape (k, rows, columns).
        base: Packaged file that gives the other attributes.
        directions: Of a row and a column, LPS.
        origin: First slice's position, LPS mm.
        step: From slice to slice, LPS mm; along the normal by ``gap`` if None.
        positions: Of every slice, instead of origin and step.
        spacing: Between rows and columns, mm.
        gap: Distance between slices, mm.
        series_uid: Shared by several calls that write one series.
        first_number: Instance number of the first slice.
        prefix: Of the file names.
        change: Called with each dataset and its slice number before it is written.
    Returns:
        The files in order of k.
    """
    folder.mkdir(parents=True, exist_ok=True)
    row, column = (np.asarray(direction, dtype=float) for direction in directions)
    stride = np.cross(row, column) * gap if step is None else np.asarray(step, dtype=float)
    uid = generate_uid() if series_uid is None else series_uid
    paths = []
    for k, plane in enumerate(stored):
        dataset = template(base)
        place = np.asarray(origin) + k * stride if positions is None else np.asarray(positions[k])
        dataset.SeriesInstanceUID = uid
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.InstanceNumber = first_number + k
        dataset.ImagePositionPatient = [float(f"{value:.9g}") for value in place]
        dataset.ImageOrientationPatient = [float(f"{value:.9g}") for value in (*row, *column)]
        dataset.PixelSpacing = list(spacing)
        dataset.SliceThickness = gap
        dataset.SpacingBetweenSlices = gap
        set_pixels(dataset, plane)
        for keyword in ("SmallestImagePixelValue", "LargestImagePixelValue", "PixelPaddingValue"):
            if keyword in dataset:
                delattr(dataset, keyword)
        if change is not None:
            change(dataset, k)
        # Names that sort in another order than the slices lie.
        path = folder / f"{prefix}{(k * 7919 + 3) % 1000:03d}_{k}.dcm"
        dataset.save_as(path)
        paths.append(path)
    return paths


def set_pixels(dataset: Dataset, plane: Array) -> None:
    """Give a dataset native 16-bit pixels."""
    dataset.Rows, dataset.Columns = plane.shape[-2:]
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = int(plane.dtype.kind == "i")
    dataset.PixelData = plane.astype(f"<{plane.dtype.kind}2").tobytes()
    dataset["PixelData"].VR = "OW"


def write_enhanced(
    path: Path,
    stored: Array,
    positions: Sequence[Sequence[float]],
    *,
    directions: tuple[Sequence[float], Sequence[float]] = AXIAL,
    spacing: tuple[float, float] = (1.5, 1.25),
    gap: float = 3.0,
    change: Callable[[Dataset, int], None] | None = None,
    series_uid: str | None = None,
) -> Path:
    """Write an enhanced MR object with a functional group item a frame.

    Args:
        path: The file.
        stored: Numbers, shape (frames, rows, columns).
        positions: Of every frame, LPS mm.
        change: Called with each frame's functional groups and its number.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = template()
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(dataset, keyword)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = generate_uid() if series_uid is None else series_uid
    set_pixels(dataset, stored)
    dataset.NumberOfFrames = len(stored)
    shared = Dataset()
    shared.PixelMeasuresSequence = DicomSequence([Dataset()])
    shared.PixelMeasuresSequence[0].PixelSpacing = list(spacing)
    shared.PixelMeasuresSequence[0].SliceThickness = gap
    shared.PlaneOrientationSequence = DicomSequence([Dataset()])
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [*directions[0], *directions[1]]
    dataset.SharedFunctionalGroupsSequence = DicomSequence([shared])
    frames = []
    for number, position in enumerate(positions):
        frame = Dataset()
        frame.PlanePositionSequence = DicomSequence([Dataset()])
        frame.PlanePositionSequence[0].ImagePositionPatient = list(position)
        frame.FrameContentSequence = DicomSequence([Dataset()])
        frame.FrameContentSequence[0].StackID = "1"
        if change is not None:
            change(frame, number)
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = DicomSequence(frames)
    dataset.save_as(path, enforce_file_format=True)
    return path


def world_ras(
    k: int,
    row_index: int,
    column_index: int,
    *,
    directions: tuple[Sequence[float], Sequence[float]],
    positions: Array,
    spacing: tuple[float, float],
) -> Array:
    """Where a stored voxel lies, RAS mm, by equation C.7.6.2.1-1 of PS3.3 and a change of two signs."""
    row, column = (np.asarray(direction) for direction in directions)
    lps = positions[k] + row * spacing[1] * column_index + column * spacing[0] * row_index
    return np.asarray(lps * np.array([-1.0, -1.0, 1.0]))
