"""Real heads as DICOM: a NIfTI scan written as series of one study, in one frame of reference."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

_MR, _CT = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2"
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def load_head(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers and affine (RAS) of a NIfTI scan."""
    image = nibabel.load(path)
    data = np.asarray(image.dataobj, dtype=np.float64)
    return np.clip(np.rint(data * (4000 / max(data.max(), 1))), 0, 4095).astype(np.int16), image.affine


def write_series(
    folder: Path,
    data: np.ndarray,
    affine: np.ndarray,
    *,
    axis: int,
    number: int,
    study: str,
    frame: str,
    slope: float = 1.0,
    intercept: float = 0.0,
    modality: str = "MR",
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "M"),
    keep: slice = slice(None),
) -> list[Path]:
    """Write slices along one voxel axis as classic objects.

    Args:
        data: Stored values, shape (i, j, k), int16.
        affine: Voxel to RAS.
        axis: Which voxel axis runs from slice to slice.
        keep: Which slices are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lps = _RAS_TO_LPS @ affine
    along_row, along_column = [other for other in range(3) if other != axis]
    series = generate_uid(entropy_srcs=[study, str(number)])
    paths = []
    for index in range(data.shape[axis])[keep]:
        plane = np.take(data, index, axis=axis)  # (along_row, along_column)
        start = np.zeros(4)
        start[3], start[axis] = 1, index
        steps = np.linalg.norm(lps[:3, :3], axis=0)
        ds = Dataset()
        ds.SOPClassUID = UID(_MR if modality == "MR" else _CT)
        ds.SOPInstanceUID = generate_uid(entropy_srcs=[series, str(index)])
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.PatientID, ds.PatientName, ds.Modality = "QX-1", "Quillfeather^Rosamund", modality
        ds.SeriesNumber, ds.InstanceNumber, ds.ImageType = number, index + 1, list(image_type)
        ds.ImagePositionPatient = [float(f"{value:.6f}") for value in (lps @ start)[:3]]
        directions = [*(lps[:3, along_row] / steps[along_row]), *(lps[:3, along_column] / steps[along_column])]
        ds.ImageOrientationPatient = [float(f"{value:.6f}") for value in directions]
        ds.PixelSpacing = [float(steps[along_column]), float(steps[along_row])]
        ds.SliceThickness = float(steps[axis])
        ds.Rows, ds.Columns = plane.shape[1], plane.shape[0]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.RescaleSlope, ds.RescaleIntercept = slope, intercept
        ds.PixelData = np.ascontiguousarray(plane.T).astype("<i2").tobytes()
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta = meta
        path = folder / f"Quillfeather_{number}_{index:03d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths
