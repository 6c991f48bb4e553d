"""Pixel data in, clean pixel data out: decoded, unused bits emptied, text blanked, stored anew without compression.

Decoding everything is the safe way: comment segments of JPEG and JPEG 2000 streams, bytes behind the last fragment,
offset tables and planes hidden in unused high bits (embedded overlays) do not survive it. Stored values do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder

from medidiff.io.dicom.decoding import DecodeFailed
from medidiff.io.dicom.decoding import decode as decode_stream
from medidiff.io.dicom.header import RLE
from medidiff.io.dicom.pixels import check_codestream, decoder_hint
from medidiff.privacy.policy import CannotClean, DeidentifyPolicy

Array = NDArray[Any]
Box = tuple[int, int, int, int, int]

_PHOTOMETRIC = frozenset(
    {"MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT",
     "YBR_PARTIAL_420", "YBR_PARTIAL_422"}
)  # fmt: skip
_FLOAT = {"FloatPixelData": ("OF", "<f4"), "DoubleFloatPixelData": ("OD", "<f8")}


@dataclass(frozen=True, slots=True)
class PixelResult:
    """What was done to the pixels: a fixed word, and the regions that were blanked."""

    outcome: str
    boxes: list[Box] = field(default_factory=list)


def clean_pixel_data(source: Dataset, clean: Dataset, policy: DeidentifyPolicy, names: frozenset[str]) -> PixelResult:
    """Put decoded, checked pixel data and its description into ``clean``.

    Args:
        source: The object as read.
        clean: The object being built; its header is clean already.
        policy: Whether text is searched for, and how much may be decoded.
        names: Lower-case names of the file's persons: found in pixels, they are text for certain.
    Raises:
        CannotClean: the pixels cannot be decoded, or hold text that cannot be blanked for certain.
    """
    pixels, description = decode(source, policy.max_bytes)
    boxes: list[Box] = []
    outcome = "not-checked"
    if policy.clean_pixels:
        from medidiff.privacy.pixels import clean_frames

        frames = as_frames(pixels, description)
        outcome, boxes = clean_frames(frames, source, names)
    for keyword, value in description.items():
        setattr(clean, keyword, value)
    _store(pixels, clean)
    return PixelResult(outcome, boxes)


def decode(source: Dataset, max_bytes: int) -> tuple[Array, dict[str, Any]]:
    """Stored values, unused bits emptied, and the attributes that describe them.

    Returns:
        The array as pydicom shapes it ([frames,] rows, columns [, samples]), writable, and the description.
    Raises:
        CannotClean: missing or contradictory description, too much data, or a stream that does not decode.
    """
    try:
        expected = _declared_bytes(source)
    except Exception as error:  # pydicom decodes on access and fails in many ways
        raise CannotClean(
            "pixels-undescribed", "the attributes that describe the pixels are missing or damaged"
        ) from error
    if expected > max_bytes:
        raise CannotClean("too-large", f"the pixels would need {expected} bytes, the limit is {max_bytes}")
    for keyword, (_, dtype) in _FLOAT.items():
        if keyword in source:
            return _float_pixels(source, keyword, dtype)
    try:
        syntax = source.file_meta.TransferSyntaxUID
        compressed = bool(syntax.is_encapsulated)
        if compressed:
            if syntax != RLE:
                check_codestream(source.PixelData, int(source.Rows), int(source.Columns))
            pixels, found = decode_stream(source, str(syntax))
        else:
            one: Any = {"allow_excess_frames": False}
            pixels, found = get_decoder(syntax).as_array(source, raw=True, **one)
    except DecodeFailed as failure:
        word = "decoder-stopped" if failure.stopped else "pixels-undecodable"
        hint = decoder_hint(str(source.file_meta.get("TransferSyntaxUID", "")))
        raise CannotClean(word, f"{failure}; a viewer may say more{hint}") from failure
    except Exception as error:  # pydicom fails in many ways on a damaged description
        hint = decoder_hint(str(source.file_meta.get("TransferSyntaxUID", "")))
        raise CannotClean(
            "pixels-undecodable", f"the pixel data does not decode; a viewer may say more{hint}"
        ) from error
    return _described(np.array(pixels), source, dict(found), compressed)


def as_frames(pixels: Array, description: dict[str, Any]) -> Array:
    """A view of shape (frames, rows, columns, samples)."""
    shape = (-1, description["Rows"], description["Columns"], description["SamplesPerPixel"])
    return pixels.reshape(shape)


def _declared_bytes(source: Dataset) -> int:
    frames = int(source.get("NumberOfFrames", 1) or 1)
    bits = max(8, int(source.BitsAllocated))
    rows, columns = int(source.Rows), int(source.Columns)
    if min(frames, rows, columns) < 1:
        raise ValueError("a size is not positive")
    return frames * rows * columns * int(source.get("SamplesPerPixel", 1) or 1) * bits // 8


def _described(pixels: Array, source: Dataset, found: dict[str, Any], compressed: bool) -> tuple[Array, dict[str, Any]]:
    photometric = str(found.get("photometric_interpretation", source.PhotometricInterpretation))
    if photometric in ("YBR_FULL_422", "YBR_PARTIAL_422"):  # decoders give every pixel its own colour
        photometric = photometric.removesuffix("_422").replace("PARTIAL", "FULL")
    if photometric not in _PHOTOMETRIC:
        raise CannotClean("pixels-undescribed", "the photometric interpretation is not one that DICOM defines")
    samples = int(found.get("samples_per_pixel", 1))
    frames = int(source.get("NumberOfFrames", 1) or 1)
    rows, columns = int(source.Rows), int(source.Columns)
    if pixels.size != frames * rows * columns * samples or pixels.dtype.itemsize * 8 not in (8, 16, 32):
        raise CannotClean("pixels-undescribed", "the decoded pixels do not have the size that the header says")
    allocated, stored = pixels.dtype.itemsize * 8, int(source.BitsStored)
    high = int(source.get("HighBit", stored - 1))
    if not 1 <= stored <= allocated or not stored - 1 <= high < allocated:
        raise CannotClean("pixels-undescribed", "bits allocated, stored and high contradict each other")
    if compressed:
        high = stored - 1
        if not _fits(pixels, stored):  # a codestream may hold more bits than the header says; its values are right
            stored, high = allocated, allocated - 1
    else:
        pixels = _empty_unused_bits(pixels, stored, high)
    description: dict[str, Any] = {
        "SamplesPerPixel": samples, "PhotometricInterpretation": photometric, "Rows": rows, "Columns": columns,
        "BitsAllocated": allocated, "BitsStored": stored, "HighBit": high,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
    }  # fmt: skip
    if samples > 1:
        description["PlanarConfiguration"] = 0
    if "NumberOfFrames" in source:
        description["NumberOfFrames"] = frames
    return pixels, description


def _fits(pixels: Array, stored: int) -> bool:
    low, high = (-(1 << (stored - 1)), (1 << (stored - 1)) - 1) if pixels.dtype.kind == "i" else (0, (1 << stored) - 1)
    return bool(pixels.min() >= low and pixels.max() <= high)


def _empty_unused_bits(pixels: Array, stored: int, high: int) -> Array:
    """Overlays can hide in bits outside the stored ones; signed values keep their sign there."""
    allocated = pixels.dtype.itemsize * 8
    if stored == allocated:
        return pixels
    up, down = allocated - 1 - high, allocated - stored
    # shifting left then right drops the high bits, and with a signed type extends the sign
    values = (pixels << up) >> down
    low = high + 1 - stored
    return (values << low if low else values).astype(pixels.dtype)


def _float_pixels(source: Dataset, keyword: str, dtype: str) -> tuple[Array, dict[str, Any]]:
    description: dict[str, Any] = {
        "SamplesPerPixel": 1, "PhotometricInterpretation": str(source.PhotometricInterpretation),
        "Rows": int(source.Rows), "Columns": int(source.Columns), "BitsAllocated": np.dtype(dtype).itemsize * 8,
    }  # fmt: skip
    frames = int(source.get("NumberOfFrames", 1) or 1)
    if "NumberOfFrames" in source:
        description["NumberOfFrames"] = frames
    pixels = np.frombuffer(bytes(source[keyword].value), dtype=dtype).copy()
    count = frames * description["Rows"] * description["Columns"]
    if pixels.size != count or description["PhotometricInterpretation"] not in ("MONOCHROME1", "MONOCHROME2"):
        raise CannotClean("pixels-undescribed", "the float pixels do not have the size that the header says")
    return pixels.reshape(frames, description["Rows"], description["Columns"]), description


def _store(pixels: Array, clean: Dataset) -> None:
    if pixels.dtype.kind == "f":
        keyword, (vr, dtype) = next(item for item in _FLOAT.items() if np.dtype(item[1][1]).itemsize == pixels.itemsize)
        data = pixels.astype(dtype).tobytes()
        clean.add_new(keyword, vr, data)
        return
    data = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<")).tobytes()
    clean.add_new("PixelData", "OW" if pixels.itemsize > 1 else "OB", data + b"\0" * (len(data) % 2))
