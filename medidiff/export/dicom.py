"""A synthetic set as DICOM: a series of MR or CT images an item, and its label map as a DICOM segmentation.

Every object says that it is synthetic in three ways: Synthetic Data (0008,001C) is YES, the Contributing Equipment
Sequence names the generator as Synthesizing Equipment (109100, DCM, of context group 7005), and patient, study and
series are called so. UIDs are derived from the set's hash and dates are the set's own, so a set gives the same bytes
every time.

Source: DICOM PS3.3 2024c, C.12.1 (SOP Common), C.8.2.1, C.8.3.1 (CT, MR Image), A.51 (Segmentation); PS3.16, CID 7005.
"""

from __future__ import annotations

import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import GeometryError, MedidiffError
from medidiff.geometry import Geometry
from medidiff.io.dicom.geometry import LPS_TO_RAS
from medidiff.synthetic.marks import SENTENCE
from medidiff.synthetic.records import Code, Item, LabelClass
from medidiff.synthetic.stored import SyntheticSet
from medidiff.volume import Modality, Volume

MANUFACTURER = "medidiff"
SYNTHESIZING_EQUIPMENT = Code(value="109100", scheme="DCM", meaning="Synthesizing Equipment")
_TISSUE = Code(value="85756007", scheme="SCT", meaning="Tissue")
_ANATOMY = Code(value="123037004", scheme="SCT", meaning="Anatomical Structure")
_MR_STORAGE, _CT_STORAGE = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2"
_EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
_SEX = {"female": "F", "male": "M", "other": "O"}
# Stored values of CT begin at 0 for -1024 HU, as scanners have it, where nothing is below.
_CT_AIR = -1024

Dataset = Any


def check_dicom(synthetic: SyntheticSet) -> None:
    """Refuse what DICOM has no place for, before anything is written.

    Raises:
        GeometryError: an item's axes are not at right angles.
        MedidiffError: there are label maps and highdicom is not installed.
    """
    for item in synthetic.items:
        if not item.grid.geometry.is_orthogonal:
            raise GeometryError(f"item {item.id}: its voxel axes are not at right angles; DICOM has no place for that")
    if any(item.label for item in synthetic.items) and find_spec("highdicom") is None:
        raise MedidiffError(
            "label maps in DICOM need highdicom: pip install 'medidiff[release]', or leave dicom out of --format"
        )


def write_dicom(synthetic: SyntheticSet, target: Path) -> None:
    """Write ``target/ITEM/image/0001.dcm ...`` and, where there is a label map, ``target/ITEM/segmentation.dcm``.

    Raises:
        GeometryError, MedidiffError: as ``check_dicom``.
        InputError: a file of the set cannot be read.
    """
    check_dicom(synthetic)
    for item in synthetic.items:
        slices = _image_series(synthetic, item, synthetic.image(item))
        folder = target / item.id / "image"
        folder.mkdir(parents=True)
        for number, dataset in enumerate(slices, 1):
            dataset.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)
        label = synthetic.label(item)
        if label is not None:
            segmentation = _segmentation(synthetic, item, label, slices)
            segmentation.save_as(target / item.id / "segmentation.dcm", enforce_file_format=True)


def uid(synthetic: SyntheticSet, *parts: str | int) -> str:
    """A UID that follows from the set and what it is for: the decimal form of a name-based UUID.

    Source: DICOM PS3.5 B.2 (UUID derived UID), RFC 9562 version 5.
    """
    name = "/".join((synthetic.sha256, *(str(part) for part in parts)))
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, name).int}"


def _image_series(synthetic: SyntheticSet, item: Item, volume: Volume) -> list[Dataset]:
    """A single-frame image for each voxel plane along k."""
    lps = LPS_TO_RAS @ volume.geometry.affine
    pixels, intercept = _stored_pixels(volume)
    common = _common(synthetic, item)
    orientation = [*_direction(lps, 0), *_direction(lps, 1)]
    slices = []
    for k in range(volume.geometry.shape[2]):
        dataset = _new_file(common.SOPClassUID, uid(synthetic, item.id, "image", k))
        dataset.update(common)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
        dataset.InstanceNumber = k + 1
        dataset.ImagePositionPatient = [_decimal(value) for value in lps[:3, 3] + k * lps[:3, 2]]
        dataset.ImageOrientationPatient = orientation
        _set_pixels(dataset, pixels[:, :, k], volume.geometry)
        if item.modality is Modality.CT:
            dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = intercept, 1, "HU"
        slices.append(dataset)
    return slices


def _common(synthetic: SyntheticSet, item: Item) -> Dataset:
    """What all images of an item share."""
    from pydicom.dataset import Dataset as New

    dataset = New()
    mr = item.modality is Modality.MR
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = _MR_STORAGE if mr else _CT_STORAGE
    dataset.ImageType = ["DERIVED", "SECONDARY", "OTHER"] if mr else ["DERIVED", "SECONDARY", "AXIAL"]
    _add_patient_and_study(dataset, synthetic, item)
    dataset.Modality = item.modality.value
    dataset.SeriesInstanceUID = uid(synthetic, item.id, "image series")
    dataset.SeriesNumber = 1
    dataset.SeriesDescription = f"Synthetic {item.suffix}"
    if synthetic.record.body_part:
        dataset.BodyPartExamined = synthetic.record.body_part
    else:
        dataset.Laterality = ""  # Type 2C, where the body part does not say that there is only one
    dataset.FrameOfReferenceUID = uid(synthetic, item.id, "frame of reference")
    dataset.PositionReferenceIndicator = ""
    dataset.PatientPosition = "HFS"
    _add_equipment(dataset, synthetic)
    dataset.AcquisitionNumber = 1
    dataset.DerivationDescription = SENTENCE
    dataset.ImageComments = SENTENCE
    dataset.BurnedInAnnotation = "NO"
    if mr:
        # Type 1 in the MR module. Nothing was acquired: "research mode" and "none" are the terms that claim least.
        dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "RM", "NONE", ""
        dataset.MRAcquisitionType = "3D"
        dataset.RepetitionTime = dataset.EchoTime = dataset.EchoTrainLength = None
    else:
        dataset.KVP = None
    _mark(dataset, synthetic)
    return dataset


def _add_patient_and_study(dataset: Dataset, synthetic: SyntheticSet, item: Item) -> None:
    dataset.PatientName = f"Synthetic^{item.id}"
    dataset.PatientID = f"SYNTHETIC-{item.id}"
    dataset.PatientBirthDate = ""
    dataset.PatientSex = _SEX.get(item.metadata.sex or "", "")
    if item.metadata.age_band:  # Patient's Age holds one number only, and a band has none
        dataset.PatientComments = f"Sampled age band: {item.metadata.age_band} years; nobody's."
    dataset.StudyInstanceUID = uid(synthetic, item.id, "study")
    dataset.StudyID = item.id
    dataset.StudyDescription = "Synthetic data"
    dataset.StudyDate, dataset.StudyTime = _moment(synthetic)
    dataset.AccessionNumber = ""
    dataset.ReferringPhysicianName = ""


def _add_equipment(dataset: Dataset, synthetic: SyntheticSet) -> None:
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = _long_string(synthetic.record.generator.name)
    dataset.DeviceSerialNumber = synthetic.record.generator.sha256
    dataset.SoftwareVersions = _long_string(synthetic.record.code_version)


def _mark(dataset: Dataset, synthetic: SyntheticSet) -> None:
    """Say that an object is synthetic, and by what it was made."""
    from pydicom.dataset import Dataset as New

    equipment = New()
    _add_equipment(equipment, synthetic)
    equipment.PurposeOfReferenceCodeSequence = [_concept(SYNTHESIZING_EQUIPMENT)]
    equipment.ContributionDateTime = "".join(_moment(synthetic))
    equipment.ContributionDescription = f"Generative model; SHA-256 of the set {synthetic.sha256}"
    dataset.SyntheticData = "YES"
    dataset.ContributingEquipmentSequence = [equipment]
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = _moment(synthetic)
    dataset.ContentDate, dataset.ContentTime = _moment(synthetic)


def is_marked(dataset: Dataset) -> bool:
    """Whether an object says in both places of the standard that it is synthetic."""
    purposes = {
        (str(code.CodeValue), str(code.CodingSchemeDesignator))
        for equipment in dataset.get("ContributingEquipmentSequence", ())
        for code in equipment.get("PurposeOfReferenceCodeSequence", ())
    }
    said = (SYNTHESIZING_EQUIPMENT.value, SYNTHESIZING_EQUIPMENT.scheme)
    return dataset.get("SyntheticData") == "YES" and said in purposes


def _stored_pixels(volume: Volume) -> tuple[NDArray[Any], int]:
    """Whole numbers as 16 bits, and what is to be added to them; axes (i, j, k)."""
    data = np.rint(np.asarray(volume.data[0], dtype=np.float64))
    low = int(data.min())
    if volume.modality is Modality.CT and low >= _CT_AIR:
        return (data - _CT_AIR).astype(np.uint16), _CT_AIR
    return data.astype(np.int16 if low < 0 else np.uint16), 0


def _set_pixels(dataset: Dataset, plane: NDArray[Any], geometry: Geometry) -> None:
    """The voxels of one plane (i, j) as rows along j and columns along i."""
    rows = np.ascontiguousarray(plane.T)
    dataset.Rows, dataset.Columns = rows.shape
    # PS3.3 10.7.1.3: first the distance between rows, then between columns.
    dataset.PixelSpacing = [_decimal(geometry.spacing[1]), _decimal(geometry.spacing[0])]
    dataset.SliceThickness = dataset.SpacingBetweenSlices = _decimal(geometry.spacing[2])
    if dataset.SOPClassUID == _CT_STORAGE:
        del dataset.SpacingBetweenSlices  # is no attribute of the CT Image IOD
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = int(rows.dtype == np.int16)
    dataset.PixelData = rows.astype(rows.dtype.newbyteorder("<")).tobytes()


def _segmentation(synthetic: SyntheticSet, item: Item, label: Volume, slices: list[Dataset]) -> Dataset:
    """The label map as a Segmentation object: a binary segment for each class, whether it occurs or not."""
    import highdicom

    frames = np.moveaxis(label.data[0], -1, 0).swapaxes(1, 2)
    classes = synthetic.record.labels
    stacked = np.stack([frames == entry.value for entry in classes], axis=-1).astype(np.uint8)
    dataset = highdicom.seg.Segmentation(
        source_images=slices,
        pixel_array=stacked,
        segmentation_type="BINARY",
        segment_descriptions=[_segment(synthetic, entry, number) for number, entry in enumerate(classes, 1)],
        series_instance_uid=uid(synthetic, item.id, "segmentation series"),
        series_number=2,
        sop_instance_uid=uid(synthetic, item.id, "segmentation"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=_long_string(synthetic.record.generator.name),
        software_versions=_long_string(synthetic.record.code_version),
        device_serial_number=synthetic.record.generator.sha256,
        content_label="SYNTHETIC",
        content_description="Synthetic label map",
        series_description="Synthetic label map",
        omit_empty_frames=False,
    )
    _make_reproducible(dataset, synthetic, item)
    _mark(dataset, synthetic)
    return dataset


def _segment(synthetic: SyntheticSet, entry: LabelClass, number: int) -> Any:
    import highdicom
    from pydicom.sr.codedict import codes

    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=_long_string(synthetic.record.generator.name),
        family=cast(Any, codes).DCM.ArtificialIntelligence,
        version=_long_string(synthetic.record.code_version),
    )
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=entry.name,
        segmented_property_category=_coded(_ANATOMY),
        segmented_property_type=_coded(entry.code or _TISSUE),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=uid(synthetic, "label class", entry.value),
        tracking_id=entry.name,
    )


def _make_reproducible(dataset: Dataset, synthetic: SyntheticSet, item: Item) -> None:
    """Put dates of the set and derived UIDs where highdicom has the clock and random ones."""
    organization = uid(synthetic, item.id, "dimension organization")
    dataset.DimensionOrganizationSequence[0].DimensionOrganizationUID = organization
    for entry in dataset.DimensionIndexSequence:
        entry.DimensionOrganizationUID = organization
    dataset.SeriesDate, dataset.SeriesTime = _moment(synthetic)


def _new_file(sop_class: str, sop_instance: str) -> Dataset:
    from pydicom.dataset import FileDataset, FileMetaDataset

    meta: Any = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = sop_instance
    meta.TransferSyntaxUID = _EXPLICIT_LITTLE_ENDIAN
    return FileDataset("", {}, preamble=b"\0" * 128, file_meta=meta)


def _concept(code: Code) -> Dataset:
    from pydicom.dataset import Dataset as New

    concept = New()
    concept.CodeValue, concept.CodingSchemeDesignator, concept.CodeMeaning = code.value, code.scheme, code.meaning
    return concept


def _coded(code: Code) -> Any:
    import highdicom

    return highdicom.sr.CodedConcept(code.value, code.scheme, code.meaning)


def _moment(synthetic: SyntheticSet) -> tuple[str, str]:
    """Date and time as DICOM writes them, UTC."""
    return synthetic.record.created.strftime("%Y%m%d"), synthetic.record.created.strftime("%H%M%S")


def _long_string(text: str) -> str:
    """Text as the value representation LO takes it: nothing that parts values, and 64 bytes, as some readers count."""
    return text.replace("\\", "/").encode()[:64].decode("utf-8", "ignore")


def _direction(lps: NDArray[np.float64], axis: int) -> list[str]:
    column = lps[:3, axis]
    return [_decimal(value) for value in column / np.linalg.norm(column)]


def _decimal(value: float) -> str:
    """A decimal string of at most 16 characters, the nearest one."""
    for digits in range(16, 0, -1):
        text = f"{float(value) + 0.0:.{digits}g}"
        if len(text) <= 16:
            return text
    return f"{value:.0f}"
