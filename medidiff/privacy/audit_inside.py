"""What is packed or encoded in bytes: archives, streams, DICOM values, text, base64; one part at a time."""

from __future__ import annotations

import base64
import gzip
import html
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO

# Most bytes that one packed stream may grow to; a larger one is reported as not searched, never as clean.
MOST_UNPACKED = 2 << 30
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{16,}={0,2}")
_PACKED = (b"\x1f\x8b", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n", b"%PDF-", b"\xff\xd8\xff", b"GIF8")
NotSearched = Callable[[str, str], None]


def unpacked(data: bytes, name: str, not_searched: NotSearched) -> Iterator[tuple[str, bytes]]:
    """The parts that are packed in bytes, each with its place.

    Args:
        data: A whole file, or a part of one.
        name: Its place.
        not_searched: Called with a place and a reason for what cannot be opened.
    """
    try:
        if data[:2] == b"\x1f\x8b":
            yield f"{name}!gz", _gunzipped(data, name, not_searched)
        elif data[:4] == b"PK\x03\x04":
            yield from _zip_members(data, name, not_searched)
        elif data[:8] == b"\x89PNG\r\n\x1a\n":
            for kind, body in _png_chunks(data):
                if kind in (b"zTXt", b"iTXt", b"iCCP"):
                    yield f"{name}!{kind.decode()}", _inflated(body[max(0, body.find(b"x")) :])
        elif data[:5] == b"%PDF-":
            for number, part in enumerate(re.findall(rb"stream\r?\n(.*?)endstream", data, re.DOTALL)):
                yield f"{name}!stream{number}", _inflated(part)
        elif data[128:132] == b"DICM" and b"1.2.840.10008.1.2.1.99" in data[132:400]:
            yield f"{name}!deflated", _deflated_dicom(data)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError, ValueError) as error:
        not_searched(name, f"cannot be unpacked: {type(error).__name__}")


def _gunzipped(data: bytes, name: str, not_searched: NotSearched) -> bytes:
    with gzip.GzipFile(fileobj=BytesIO(data)) as stream:
        content = stream.read(MOST_UNPACKED)
        if stream.read(1):
            not_searched(name, "unpacks to more than can be searched inside")
    return content


def _zip_members(data: bytes, name: str, not_searched: NotSearched) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(BytesIO(data)) as archive:
        members = archive.infolist()
        yield f"{name}!names", "\n".join(member.filename for member in members).encode("utf-8", "surrogateescape")
        for number, member in enumerate(members):
            place = f"{name}!{number}"
            if member.is_dir():
                continue
            if member.file_size > MOST_UNPACKED:
                not_searched(place, "larger than can be searched inside")
                continue
            try:
                content = archive.read(member)
            except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
                not_searched(place, f"cannot be unpacked: {type(error).__name__}")
                continue
            yield place, content


def _deflated_dicom(data: bytes) -> bytes:
    length = int.from_bytes(data[140:144], "little")
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[144 + length :], MOST_UNPACKED)


def _inflated(data: bytes) -> bytes:
    with suppress(zlib.error):
        return zlib.decompressobj().decompress(data, MOST_UNPACKED)
    return data


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 8
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        yield data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        position += 12 + length


def dicom_texts(data: bytes) -> Iterator[str]:
    """Every text value, decoded with the file's own character set, and byte values that may be text."""
    import pydicom

    from medidiff.io.dicom.quiet import quiet

    with quiet():
        try:
            ds = pydicom.dcmread(BytesIO(data), force=True)
            elements = [*ds.file_meta, *ds.iterall()]
        except Exception:  # noqa: BLE001 - pydicom fails in many ways on a damaged file; its bytes were searched already
            return
        for element in elements:
            with suppress(Exception):
                if element.VR == "PN":
                    yield from (
                        str(part) for name in _several(element.value) for part in (name, *_reversed_name(str(name)))
                    )
                elif element.VR not in ("OB", "OW", "UN", "SQ", "OF", "OD"):
                    yield str(element.value)


def _several(value: object) -> list[object]:
    from pydicom.multival import MultiValue

    return list(value) if isinstance(value, (list, MultiValue)) else [value]


def _reversed_name(name: str) -> list[str]:
    parts = [part for part in name.partition("=")[0].split("^") if part]
    return [" ".join(parts[::-1]), " ".join(parts)]


def is_texty(data: bytes) -> bool:
    """Mostly printable, so worth searching as text."""
    sample = data[:4096]
    return bool(sample) and sum(byte >= 32 or byte in (9, 10, 13) for byte in sample) > 0.9 * len(sample)


def unescaped(text: str) -> str:
    """JSON and HTML escapes undone."""
    return html.unescape(re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found.group(1), 16)), text))


def from_base64(data: bytes) -> Iterator[bytes]:
    """Every run of base64, decoded."""
    for run in _BASE64.findall(data):
        padded = run.rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
        with suppress(ValueError):
            yield base64.b64decode(padded + b"=" * (-len(padded) % 4))


def is_packed(data: bytes) -> bool:
    """Whether there is something to open inside: an archive, or a picture."""
    return data.startswith(_PACKED)
