"""BIDS JSON sidecars: an allow-list of keys, and of values within them."""

from __future__ import annotations

# ruff: noqa: SIM905 - a paragraph of keys can be read, a list of quoted strings cannot
import math
from collections.abc import Mapping
from typing import Any

from medidiff.privacy.dates import shift_datetime, shift_iso
from medidiff.privacy.keys import PrivacyKey
from medidiff.privacy.vocabulary import MODELS, VENDORS, clean_kernel, clean_nucleus, clean_term, clean_words

_NUMBERS = frozenset(
    """
    MagneticFieldStrength ImagingFrequency EchoTime EchoTime1 EchoTime2 RepetitionTime RepetitionTimeExcitation
    RepetitionTimePreparation InversionTime FlipAngle EchoNumber EchoTrainLength PixelBandwidth DwellTime SliceThickness
    SpacingBetweenSlices NumberOfAverages PercentPhaseFOV PercentSampling PhaseEncodingSteps AcquisitionMatrixPE
    ReconMatrixPE ParallelReductionFactorInPlane ParallelReductionOutOfPlane PartialFourier MultibandAccelerationFactor
    BandwidthPerPixelPhaseEncode EffectiveEchoSpacing DerivedVendorReportedEchoSpacing TotalReadoutTime SliceTiming
    BaseResolution ShimSetting TxRefAmp PhaseResolution SAR NumberOfVolumesDiscardedByScanner
    NumberOfVolumesDiscardedByUser
    ImageOrientationPatientDICOM SeriesNumber AcquisitionNumber RefLinesPE TriggerDelayTime VolumeTiming
    DiffusionBValue DelayTime AcquisitionDuration WaterFatShift EstimatedEffectiveEchoSpacing EstimatedTotalReadoutTime
    PhilipsRescaleSlope PhilipsRescaleIntercept PhilipsScaleSlope UsePhilipsFloatNotDisplayScaling RescaleSlope
    RescaleIntercept XRayExposure XRayTubeCurrent KVP ExposureTime GantryTilt ReconstructionDiameter
    DistanceSourceToDetector DistanceSourceToPatient CTDIvol FrameTimesStart FrameDuration PlaneThickness
    InjectedRadioactivity ScatterFraction LabelingDuration PostLabelingDelay BackgroundSuppressionPulseTime
    NumberShots DummyScansDiscarded MixingTime SpoilingRFPhaseIncrement SpoilingGradientMoment SpoilingGradientDuration
    B0FieldStrength VoxelSize Spacing MatrixSize
    """.split()
)
_TERMS = frozenset(
    """
    Modality ImageType MRAcquisitionType ScanningSequence SequenceVariant ScanOptions BodyPartExamined BodyPart
    PatientPosition PhaseEncodingDirection SliceEncodingDirection InPlanePhaseEncodingDirectionDICOM
    PhaseEncodingAxis PhaseEncodingPolarityGE ParallelAcquisitionTechnique MatrixCoilMode CoilString
    ContrastBolusIngredient
    ImagedNucleus SpoilingType MTPulseShape ArterialSpinLabelingType PulseSequenceType NonlinearGradientCorrection
    MTState SpoilingState FatSaturation DeidentificationMethodType Units PatientOrientation AcquisitionContrast
    """.split()
)
_WORDS = frozenset(
    """
    Manufacturer ManufacturersModelName SoftwareVersions SeriesDescription ProtocolName SequenceName
    PulseSequenceDetails
    PulseSequenceName ReceiveCoilName ReceiveCoilActiveElements TransmitCoilName ConvolutionKernel TaskName
    """.split()
)
_TIMES = frozenset(
    {"AcquisitionTime", "AcquisitionDateTime", "AcquisitionDate", "SeriesDate", "StudyDate", "StudyTime", "SeriesTime"}
)
_DIRECTIONS = frozenset({"i", "j", "k", "i-", "j-", "k-"})
_MAX_ITEMS = 100_000


def clean_sidecar(
    sidecar: Mapping[str, Any], key: PrivacyKey, patient: str, names: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """What may stay of a sidecar: physics as numbers, defined terms, imaging words, shifted times.

    Args:
        sidecar: The parsed JSON object.
        key: Gives the patient's date shift.
        patient: The patient as ``identity.identity_of`` names it: the shift is that of the DICOM objects.
        names: Lower-case names that may not stay even where they are imaging terms.
    Returns:
        A new object. Unknown keys, nested objects and values that are not what their key says are left out.
    """
    clean: dict[str, Any] = {}
    for name, value in sidecar.items():
        new = _clean_value(str(name), value, key, patient, names)
        if new is not None:
            clean[str(name)] = new
    return clean


def _clean_value(name: str, value: Any, key: PrivacyKey, patient: str, names: frozenset[str]) -> Any:
    if name in _NUMBERS:
        return _clean_numbers(value)
    if name in _TIMES and isinstance(value, str):
        shift = key.shift(patient)
        return shift_iso(value, shift) or (shift_datetime(value, shift) if len(value) >= 8 else None)
    if name in _TERMS:
        return _clean_terms(name, value, names)
    if name in _WORDS and isinstance(value, str):
        if name == "ConvolutionKernel":
            return clean_kernel(value, names)
        extra = (
            VENDORS | MODELS if name in ("Manufacturer", "ManufacturersModelName", "SoftwareVersions") else frozenset()
        )
        return clean_words(value, names, frozenset(extra)) or None
    return None


def _clean_numbers(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        # seven digits before the point are a date, a telephone number or an identifier
        return value if math.isfinite(value) and abs(value) < 1e6 else None
    if isinstance(value, list) and len(value) <= _MAX_ITEMS:
        items = [_clean_numbers(item) for item in value]
        return None if any(item is None for item in items) else items
    return None


def _clean_terms(name: str, value: Any, names: frozenset[str]) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, list):
        items = [_clean_terms(name, item, names) for item in value]
        return [item if item is not None else "OTHER" for item in items] if any(items) else None
    if not isinstance(value, str):
        return None
    if value in _DIRECTIONS:
        return value
    if name == "ImagedNucleus":
        return clean_nucleus(value)
    parts = [clean_term(part, names) for part in value.split("\\")]
    return "\\".join(part for part in parts if part) or None
