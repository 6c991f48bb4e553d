"""Plants invented identifiers in every place of a DICOM object that can hold one, and looks for them afterwards.

Each canary is a string that cannot occur by chance. ``Planted.left_in`` searches the bytes of an output for every
canary in several encodings, whatever the case.
"""

from __future__ import annotations

import io
import random
import string
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import pydicom
from pydicom.data import get_testdata_file
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset

TEXT_LIMIT = {"AE": 16, "CS": 16, "LO": 64, "SH": 16, "ST": 200, "LT": 300, "UT": 400, "UC": 100, "UR": 100, "PN": 60}
# What says how the pixels are stored, which kind of object it is, or which characters it uses: a word there makes
# another file of it, not one that hides a name.
STRUCTURE = {
    "SOPClassUID", "TransferSyntaxUID", "PhotometricInterpretation", "SpecificCharacterSet", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel", "NumberOfFrames",
    "PlanarConfiguration", "PixelData", "FloatPixelData", "DoubleFloatPixelData", "DirectoryRecordSequence",
    "MediaStorageDirectorySOPClass",
}  # fmt: skip
_ENCODINGS = ("utf-8", "latin-1", "utf-16-le", "utf-16-be")


@dataclass
class Planted:
    """Canaries and where they were put."""

    places: dict[str, str] = field(default_factory=dict)

    def visible_in(self, data: bytes) -> float:
        """The share of a sample of canaries that occurs as plain text: shows that the planting worked."""
        sample = list(self.places)[:: max(1, len(self.places) // 200)]
        return sum(canary.encode() in data for canary in sample) / len(sample)

    def left_in(self, data: bytes) -> dict[str, str]:
        """The canaries that occur in ``data``, with their places."""
        lowered = data.lower()
        return {
            canary: place
            for canary, place in self.places.items()
            if any(form in lowered for form in {canary.lower().encode(encoding, "replace") for encoding in _ENCODINGS})
        }


class Planter:
    """Makes and plants canaries from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.planted = Planted()

    def word(self, place: str, length: int = 11) -> str:
        """A word of consonants and vowels that no dictionary has."""
        while True:
            letters = "".join(self.random.choice("bcdfgjklmpqrvwxz" if n % 2 else "aeiouy") for n in range(length))
            canary = letters.capitalize()
            if canary not in self.planted.places:
                self.planted.places[canary] = place
                return canary

    def value(self, vr: str, place: str) -> object:  # noqa: PLR0911 - one line a VR
        """A canary that is a legal value of the VR; None where a value cannot carry one."""
        if vr == "PN":
            return f"{self.word(place)}^{self.word(place)}"
        if vr in ("CS", "AE"):
            return self.word(place).upper()
        if vr in TEXT_LIMIT:
            return self.sentence(place)[: TEXT_LIMIT[vr]] if TEXT_LIMIT[vr] > 60 else self.word(place)
        if vr == "UI":
            return self._noted(f"1.2.826.0.1.3680043.{self.random.randrange(10**19, 10**20)}", place)
        if vr == "DA":
            # one year only: a date that was moved back by more than a year cannot become another canary
            day = date.fromordinal(self.random.randrange(date(1957, 1, 1).toordinal(), date(1958, 1, 1).toordinal()))
            return self._noted(day.strftime("%Y%m%d"), place)
        if vr == "TM":
            return self._noted(
                f"{self.random.randrange(24):02d}{self.random.randrange(60):02d}17.{self.random.randrange(10**5):06d}",
                place,
            )
        if vr == "DT":
            return self._noted(
                f"1957{self.random.randrange(1, 13):02d}03040506.{self.random.randrange(10**6):06d}", place
            )
        if vr in ("OB", "UN", "OW"):
            text = self.sentence(place).encode()
            return text + b" " * (len(text) % 2)
        if vr == "DS":
            return self._noted(f"{self.random.randrange(10**10, 10**11)}1", place)
        if vr == "IS":
            return self._noted(f"{self.random.randrange(10**8, 2 * 10**9)}", place)
        return None

    def sentence(self, place: str) -> str:
        return f"seen {self.word(place)} at {self.word(place)}"

    def _noted(self, text: str, place: str) -> str:
        self.planted.places[text] = place
        return text

    def plant_everywhere(self, ds: Dataset, *, share: float = 1.0) -> None:
        """Put a canary into (a share of) the attributes of DICOM's dictionary, nested and private ones too."""
        for tag, (vrs, _, _, _, keyword) in DicomDictionary.items():
            vr = vrs.split(" ")[0]
            group = tag >> 16
            if group in (0, 2, 4) or not keyword or keyword in STRUCTURE or self.random.random() > share:
                continue
            if vr in ("DS", "IS") and keyword in ds:
                continue  # geometry and physics that the test compares
            if vr == "SQ":
                if keyword not in ds:
                    ds.add_new(tag, "SQ", [self.item(keyword)])
            elif (value := self.value(vr, keyword)) is not None:
                ds.add_new(tag, vr, value)
        self.plant_private(ds, "top")
        self.plant_repeating(ds)

    def item(self, place: str, depth: int = 0) -> Dataset:
        """A sequence item full of canaries, nested three deep."""
        item = Dataset()
        names = ("PatientName", "PatientID", "CodeMeaning", "CodeValue", "TextValue", "StudyDescription", "ImageType",
                 "SeriesInstanceUID", "StudyDate", "ProtocolName", "Manufacturer", "ScanningSequence",
                 "ReferencedSOPInstanceUID", "OperatorsName", "StackID", "SequenceName", "ImageComments")  # fmt: skip
        for keyword in self.random.sample(names, 5):
            tag = pydicom.datadict.tag_for_keyword(keyword)
            assert tag is not None
            vr = pydicom.datadict.dictionary_VR(tag)
            item.add_new(tag, vr, self.value(vr, f"{place} > {keyword}"))
        if self.random.random() < 0.05:
            self.plant_private(item, place)
        if depth < 2 and self.random.random() < 0.2:
            for keyword in ("RequestAttributesSequence", "MRImagingModifierSequence", "AnatomicRegionSequence"):
                setattr(item, keyword, [self.item(f"{place} > {keyword}", depth + 1)])
        return item

    def plant_private(self, ds: Dataset, place: str) -> None:
        """Unknown and known creators, in blocks that are not where they usually are."""
        creators = ["SIEMENS MR HEADER", "Philips MR Imaging DD 001", "GEMS_PARM_01", self.word("private creator")]
        for group, creator in (
            (0x0019, creators[0]),
            (0x2005, creators[1]),
            (0x0043, creators[2]),
            (0x0099, creators[3]),
        ):
            ds.add_new((group << 16) | 0x0010, "LO", self.word("other creator"))
            ds.add_new((group << 16) | 0x0037, "LO", creator)
            for offset, vr in (
                (0x0A, "LO"),
                (0x0C, "UN"),
                (0x0D, "LT"),
                (0x0E, "OB"),
                (0x39, "LO"),
                (0x77, "PN"),
                (0x78, "DA"),
            ):
                ds.add_new((group << 16) | 0x3700 | offset, vr, self.value(vr, f"{place} > private {group:04x}"))
        ds.add_new(0x00990010, "LO", self.word("creator"))
        ds.add_new(0x00991001, "SQ", [Dataset()])
        ds[0x00991001].value[0].PatientName = self.value("PN", "private sequence")

    def plant_repeating(self, ds: Dataset) -> None:
        for group in (0x5000, 0x5004, 0x501E, 0x6000, 0x6002, 0x601E):
            label = 0x2500 if group < 0x6000 else 0x1500
            ds.add_new((group << 16) | label, "LO", self.word(f"repeating {group:04x}"))
            ds.add_new((group << 16) | 0x3000, "OB", self.value("OB", f"repeating data {group:04x}"))
            ds.add_new(
                (group << 16) | (0x0022 if group < 0x6000 else 0x4000), "LO", self.word(f"repeating {group:04x}")
            )
        ds.add_new(0xFFFCFFFC, "OB", self.value("OB", "trailing padding"))
        ds.add_new(0x40004000, "LT", self.sentence("comment group"))
        ds.add_new(0x00110001, "LO", self.word("private without a block"))
        ds.add_new(0x18990011, "UN", self.value("UN", "unknown public"))

    def plant_meta(self, ds: Dataset) -> None:
        meta = ds.file_meta
        for keyword in (
            "SourceApplicationEntityTitle",
            "SendingApplicationEntityTitle",
            "ReceivingApplicationEntityTitle",
        ):
            setattr(meta, keyword, self.word(keyword).upper())
        meta.PrivateInformationCreatorUID = self.value("UI", "PrivateInformationCreatorUID")
        meta.PrivateInformation = self.value("OB", "PrivateInformation")
        meta.ImplementationVersionName = self.word("ImplementationVersionName").upper()
        meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID

    def file(self, ds: Dataset) -> bytes:
        """The object as a file, with canaries in the preamble and behind the dataset."""
        self.plant_meta(ds)
        ds.preamble = self.sentence("preamble").encode().ljust(128, b"\0")[:128]
        buffer = io.BytesIO()
        with pydicom.config.disable_value_validation():
            ds.save_as(buffer, enforce_file_format=True)
        # after the last element: a reader that stops there never sees it
        return buffer.getvalue() + b"\xfc\xff\xfc\xffOB\0\0" + self._tail()

    def _tail(self) -> bytes:
        text = self.sentence("behind the dataset").encode()
        text += b" " * (len(text) % 2)
        return len(text).to_bytes(4, "little") + text


def packaged(name: str) -> Dataset:
    """A real DICOM object that pydicom ships."""
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    return pydicom.dcmread(path)


def plant_overlay_bits(ds: Dataset, mask: np.ndarray, bit: int = 15) -> None:
    """Hide a drawn mask in an unused high bit of the stored pixels, as embedded overlays are."""
    pixels = np.frombuffer(ds.PixelData, dtype=np.uint16).reshape(ds.Rows, ds.Columns).copy()
    pixels[mask] |= np.uint16(1 << bit)
    ds.PixelData = pixels.tobytes()


def alphabet(seed: int, length: int) -> str:
    return "".join(random.Random(seed).choice(string.ascii_uppercase) for _ in range(length))
