"""What happens to each attribute: an allow-list.

PS3.15 table E.1-1 is a list of what to remove, and 7,000 attributes of the dictionary, and every private one, are not
on it. Here the default is removal. Kept are the numbers and defined terms of image geometry and acquisition physics
(groups 0018, 0020, 0028, 0054, 5200), a few attributes by name, and nothing else; every kept value is also checked
(``values``, ``vocabulary``). The tests hold this list against table E.1-1 of a kept library.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cache

from medidiff.privacy.values import NUMERIC_VRS, dictionary_entry, is_repeating


class Action(StrEnum):
    """What is done with an attribute."""

    REMOVE = "remove"
    EMPTY = "empty"  # type 2: present, without a value
    NUMBERS = "numbers"  # checked numbers stay
    TERMS = "terms"  # values from the vocabulary stay
    WORDS = "words"  # the vocabulary's words stay
    UID = "uid"  # keyed hash, unless DICOM itself gave the UID out
    CLASS = "class"  # a UID that DICOM gave out
    SHIFT = "shift"  # dates and times of the patient's clock
    RECURSE = "recurse"  # a sequence whose items are cleaned
    TABLE = "table"  # lookup table bytes that define pixel values
    LATER = "later"  # written by the cleaner itself


_GROUPS = frozenset({0x0018, 0x0020, 0x0028, 0x0054, 0x5200})

_BY_KEYWORD: dict[Action, str] = {
    Action.EMPTY: "StudyID AccessionNumber ReferringPhysicianName PatientBirthDate PositionReferenceIndicator",
    Action.LATER: """
        SpecificCharacterSet PatientName PatientID PatientSex PatientAge PatientSize PatientWeight
        PatientIdentityRemoved DeidentificationMethod DeidentificationMethodCodeSequence BurnedInAnnotation
        RecognizableVisualFeatures LongitudinalTemporalInformationModified SOPClassUID SOPInstanceUID
        SamplesPerPixel PhotometricInterpretation PlanarConfiguration Rows Columns BitsAllocated BitsStored HighBit
        PixelRepresentation PixelData FloatPixelData DoubleFloatPixelData NumberOfFrames
        """,
    Action.TERMS: """
        ImageType Modality ConversionType PixelPresentation VolumetricProperties VolumeBasedCalculationTechnique
        ComplexImageComponent AcquisitionContrast RespiratorySignalSource
        """,
    Action.WORDS: """
        Manufacturer ManufacturerModelName StudyDescription SeriesDescription ProtocolName SequenceName
        PulseSequenceName SoftwareVersions ReceiveCoilName TransmitCoilName ConvolutionKernel ImagedNucleus
        RescaleType ModalityLUTType FilterType StackID
        """,
    Action.CLASS: "ReferencedSOPClassUID",
    Action.UID: """
        StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID SynchronizationFrameOfReferenceUID ConcatenationUID
        SOPInstanceUIDOfConcatenationSource DimensionOrganizationUID ReferencedSOPInstanceUID IrradiationEventUID
        VolumeFrameOfReferenceUID TableFrameOfReferenceUID
        """,
    Action.SHIFT: """
        StudyDate StudyTime SeriesDate SeriesTime AcquisitionDate AcquisitionTime ContentDate ContentTime
        AcquisitionDateTime FrameAcquisitionDateTime FrameReferenceDateTime StartAcquisitionDateTime
        EndAcquisitionDateTime InstanceCreationDate InstanceCreationTime RadiopharmaceuticalStartTime
        RadiopharmaceuticalStopTime RadiopharmaceuticalStartDateTime RadiopharmaceuticalStopDateTime
        ContrastBolusStartTime ContrastBolusStopTime DecayCorrectionDateTime
        """,
    Action.RECURSE: """
        ReferencedImageSequence SourceImageSequence DerivationImageSequence DerivationCodeSequence
        PurposeOfReferenceCodeSequence AnatomicRegionSequence PrimaryAnatomicStructureSequence
        AnatomicRegionModifierSequence ReferencedImageRealWorldValueMappingSequence RealWorldValueMappingSequence
        MeasurementUnitsCodeSequence
        """,
    Action.NUMBERS: """
        ReferencedFrameNumber RealWorldValueIntercept RealWorldValueSlope RealWorldValueFirstValueMapped
        RealWorldValueLastValueMapped DoubleFloatRealWorldValueFirstValueMapped
        DoubleFloatRealWorldValueLastValueMapped
        """,
    Action.TABLE: """
        LUTData RedPaletteColorLookupTableData GreenPaletteColorLookupTableData BluePaletteColorLookupTableData
        SegmentedRedPaletteColorLookupTableData SegmentedGreenPaletteColorLookupTableData
        SegmentedBluePaletteColorLookupTableData
        """,
    # On table E.1-1, or of no use to an image and able to hold a person's trail.
    Action.REMOVE: """
        UDISequence TransducerIdentificationSequence ModifyingDeviceID ContributingEquipmentSequence
        OtherStudyNumbers VOILUTSequence ConversionSourceAttributesSequence
        UnassignedSharedConvertedAttributesSequence UnassignedPerFrameConvertedAttributesSequence
        ContributingSOPInstancesReferenceSequence PatientSpecificationSequence ContributingSourcesSequence
        PredecessorProtocolSequence ReferencedDefinedProtocolSequence ReferencedPerformedProtocolSequence
        DimensionIndexPrivateCreator FunctionalGroupPrivateCreator InterventionDrugInformationSequence
        AdditionalDrugSequence InterventionSequence BiopsyTargetSequence
        """,
}
_ACTIONS = {keyword: action for action, keywords in _BY_KEYWORD.items() for keyword in keywords.split()}

# Attributes that an image object must have even when nothing is known (type 2).
ALWAYS_PRESENT = (
    "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "PatientBirthDate", "PatientSex", "StudyID",
    "SeriesNumber", "InstanceNumber", "Manufacturer",
)  # fmt: skip


@cache
def action_for(tag: int) -> Action:
    """What the profile does with an attribute; removal for whatever it does not know."""
    if tag >> 16 & 1 or is_repeating(tag):
        return Action.REMOVE
    entry = dictionary_entry(tag)
    if entry is None:
        return Action.REMOVE
    vrs, _, keyword = entry
    named = _ACTIONS.get(keyword)
    if named is not None:
        return named
    if tag >> 16 not in _GROUPS:
        return Action.REMOVE
    if vrs <= NUMERIC_VRS:
        return Action.NUMBERS
    if vrs == {"CS"}:
        return Action.TERMS
    return Action.RECURSE if vrs == {"SQ"} else Action.REMOVE
