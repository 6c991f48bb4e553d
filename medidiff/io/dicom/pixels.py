"""Stored numbers: found in the file or decoded, masked to the bits that count, turned into physical values."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from medidiff.io.dicom.decoding import DecodeFailed, decode
from medidiff.io.dicom.header import LARGEST_FRAME, NATIVE, RLE
from medidiff.io.dicom.model import InstanceHeader, Layout, PixelFormat, Plane
from medidiff.io.dicom.quiet import quiet
from medidiff.io.dicom.reasons import Reason, SeriesRefused
from medidiff.io.dicom.source import open_dataset

Array = NDArray[Any]

_JPEG_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7}
_ITEM = b"\xfe\xff\x00\xe0"
# 12-bit and lossless JPEG, and JPEG-LS: their decoder is under the GPL, and so an extra (docs/decisions/0005).
_GPL_DECODED = {f"1.2.840.10008.1.2.4.{number}" for number in (51, 57, 70, 80, 81)}


def stored_frames(header: InstanceHeader) -> Array:
    """All frames of an object as stored numbers, bits masked and sign extended.

    Returns:
        Shape (frames, rows, columns) of the stored frames: a mosaic is still one sheet. Integers, or floats for
        (Double) Float Pixel Data.
    Raises:
        SeriesRefused: the file changed or breaks off, or its pixels cannot be decoded.
    """
    try:
        frames = _native(header) if header.offset >= 0 else _decoded(header)
    except SeriesRefused as refusal:
        if refusal.path is not None:
            raise
        raise SeriesRefused(refusal.reason, refusal.text, path=header.path) from refusal
    except OSError as error:
        text = f"the system cannot read the pixels ({error.strerror or type(error).__name__})"
        raise SeriesRefused(Reason.UNREADABLE, text, path=header.path) from error
    return frames


def stored_plane(header: InstanceHeader, frames: Array, plane: Plane) -> Array:
    """A view of one plane, shape (rows, columns): a frame, or a tile of a sheet.

    Args:
        header: The object.
        frames: Its stored frames, shape (frames, rows, columns).
        plane: Which of its planes.
    """
    if header.layout not in (Layout.MOSAIC, Layout.GRID):
        return np.asarray(frames[plane.index])
    down, across = divmod(plane.index, header.pixels.columns // header.columns)
    rows, columns = header.rows, header.columns
    return frames[0, down * rows : (down + 1) * rows, across * columns : (across + 1) * columns]


def plane_values(header: InstanceHeader, frames: Array, plane: Plane) -> Array:
    """Physical values of one plane, shape (rows, columns), float32.

    Args:
        header: The object.
        frames: Of ``stored_frames``.
        plane: Which of its planes.
    """
    return scaled(stored_plane(header, frames, plane), header.pixels, plane.slope, plane.intercept)


def scaled(stored: Array, pixels: PixelFormat, slope: float, intercept: float) -> Array:
    """``slope * stored + intercept`` in double precision, rounded once to float32."""
    if pixels.inverted and not pixels.float_type:
        lowest = -(1 << (pixels.bits_stored - 1)) if pixels.signed else 0
        stored = (2 * lowest + (1 << pixels.bits_stored) - 1) - stored.astype(np.int64)
    if slope == 1.0 and intercept == 0.0:
        return stored.astype(np.float32)
    # Whole numbers below 2^24 are exact in float32: the common CT case needs no double.
    if slope == 1.0 and intercept == int(intercept) and abs(intercept) < 1 << 22 and stored.dtype.itemsize <= 2:
        return np.add(stored, np.float32(intercept), dtype=np.float32)
    return (stored.astype(np.float64) * slope + intercept).astype(np.float32)


def mask_bits(raw: Array, pixels: PixelFormat) -> Array:
    """Keep the stored bits only and extend the sign.

    Args:
        raw: Unsigned or signed words as they lie in the file.
        pixels: Says which bits count. Overlays and junk may sit in the others.
    """
    size = raw.dtype.itemsize * 8
    unsigned = raw.view(f"{'>' if raw.dtype.byteorder == '>' else ''}u{raw.dtype.itemsize}")
    if pixels.bits_stored == size:
        return unsigned.view(raw.dtype.str.replace("u", "i")) if pixels.signed else unsigned
    # Up to the top, then down again: the second shift is arithmetic for signed words, and so extends the sign.
    up = unsigned << (size - 1 - pixels.high_bit)
    down = size - pixels.bits_stored
    return up.view(f"i{raw.dtype.itemsize}") >> down if pixels.signed else up >> down


def _native(header: InstanceHeader) -> Array:
    """Native little endian pixels, straight from their place in the file."""
    pixels = header.pixels
    kind = f"<{pixels.float_type}" if pixels.float_type else f"<u{pixels.bits_allocated // 8}"
    count = pixels.rows * pixels.columns * pixels.frames
    raw: Array = np.fromfile(header.path, dtype=kind, count=count, offset=header.offset)
    if raw.size != count:
        raise SeriesRefused(Reason.TRUNCATED, "the file became shorter since its header was read", path=header.path)
    frames = raw.reshape(pixels.frames, pixels.rows, pixels.columns)
    return frames if pixels.float_type else mask_bits(frames, pixels)


def _decoded(header: InstanceHeader) -> Array:
    """Pixels through pydicom; compressed ones through its plugins, in a process that can be stopped."""
    pixels = header.pixels
    dataset, stream = open_dataset(header.path, pixels=True)
    stream.close()
    array = _unpacked(dataset, pixels) if pixels.transfer_syntax in NATIVE else _decompressed(dataset, pixels)
    expected = (pixels.frames, pixels.rows, pixels.columns)
    if array.size != pixels.frames * pixels.rows * pixels.columns:
        text = f"decoded {array.shape}, the header declares {expected}"
        raise SeriesRefused(Reason.LENGTH_MISMATCH, text, path=header.path)
    return _fit(array.reshape(expected), pixels)


def _unpacked(dataset: Dataset, pixels: PixelFormat) -> Array:
    """Pixels that are not compressed, but big endian, inflated or single bits."""
    try:
        with quiet():
            dataset.file_meta.TransferSyntaxUID = UID(pixels.transfer_syntax)
            return np.asarray(pixel_array(dataset, raw=True))
    except Exception as error:  # pydicom fails in many ways on a damaged description
        text = f"the pixels cannot be read ({type(error).__name__}, transfer syntax {pixels.transfer_syntax})"
        raise SeriesRefused(Reason.UNDECODABLE, text) from error


def _decompressed(dataset: Dataset, pixels: PixelFormat) -> Array:
    syntax = pixels.transfer_syntax
    if syntax != RLE:
        check_codestream(dataset.get("PixelData"), pixels.rows, pixels.columns)
    try:
        return decode(dataset, syntax)[0]
    except DecodeFailed as failure:
        reason = Reason.DECODER_STOPPED if failure.stopped else Reason.UNDECODABLE
        text = f"{failure}, transfer syntax {syntax}{decoder_hint(syntax)}"
        raise SeriesRefused(reason, text) from failure


def decoder_hint(transfer_syntax: str) -> str:
    """What to install for a transfer syntax that this installation has no decoder for; empty if nothing is missing."""
    if transfer_syntax in _GPL_DECODED and find_spec("libjpeg") is None:
        return "; `pip install 'medidiff[jpeg-gpl]'` adds a decoder for it, which is under the GPL"
    return ""


def _fit(array: Array, pixels: PixelFormat) -> Array:
    """Mask decoded numbers, and give them the sign that the header states."""
    if pixels.float_type or pixels.bits_allocated == 1:
        return array
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    if native.dtype.kind == "f" or native.dtype.itemsize * 8 != pixels.bits_allocated:
        return native
    return mask_bits(native, pixels)


def check_codestream(data: Any, rows: int, columns: int) -> None:
    """Refuse a codestream that is larger than the header says, before a decoder allocates room for it.

    Args:
        data: Encapsulated pixel data.
        rows: Of the header.
        columns: Of the header.
    Raises:
        SeriesRefused: an image in it is far larger than rows x columns.
    """
    if not isinstance(data, bytes):
        return
    for start, length in _items(data):
        size = codestream_size(data[start : start + min(length, 65536)])
        if size is None:
            continue
        high, wide = size
        if high * wide > LARGEST_FRAME or high * wide > 4 * rows * columns + 4096:
            text = f"the compressed image is {high} x {wide}, the header declares {rows} x {columns}"
            raise SeriesRefused(Reason.LENGTH_MISMATCH, text)


def _items(data: bytes) -> Iterator[tuple[int, int]]:
    """Start and length of each fragment of encapsulated pixel data, the offset table first."""
    at = 0
    while data[at : at + 4] == _ITEM and at + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, at + 4)
        yield at + 8, length
        at += 8 + length


def codestream_size(data: bytes) -> tuple[int, int] | None:
    """Rows and columns that a JPEG, JPEG-LS or JPEG 2000 codestream declares; None if not recognised."""
    start = data.find(b"\xff\x4f\xff\x51", 0, 512)
    if start >= 0 and len(data) >= start + 24:
        width, height, left, top = struct.unpack_from(">IIII", data, start + 8)
        return max(height - top, 0), max(width - left, 0)
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], struct.unpack_from(">H", data, at + 2)[0]
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return height, width
        at += 2 + length
    return None
