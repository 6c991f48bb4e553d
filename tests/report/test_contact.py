"""Small pictures for people: which way is up, and what a damaged picture does."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from medidiff.errors import InputError
from medidiff.geometry import Geometry
from medidiff.report.contact import CELL, GAP, side_by_side, thumbnail_png
from medidiff.volume import Volume


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png))


def flat(shade: int, size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", size, shade).save(buffer, "PNG")
    return buffer.getvalue()


def test_right_anterior_and_superior_are_where_radiologists_look_for_them() -> None:
    """A bright corner at the patient's right, front and top, on a grid that runs to the left and downwards."""
    data = np.zeros((1, 20, 20, 20), dtype=np.float32)
    data[0, :8, 12:, :] = 1.0
    geometry = Geometry(np.diag([-1.0, 1.0, -1.0, 1.0]), (20, 20, 20))
    picture = np.asarray(opened(thumbnail_png(Volume(data, geometry))), dtype=float)
    axial = picture[:, :CELL]
    assert axial[: CELL // 3, : CELL // 3].mean() > 200
    assert axial[CELL // 2 :, CELL // 2 :].mean() < 10
    coronal = picture[:, CELL + GAP : 2 * CELL + GAP]
    assert coronal.max() < 10, "the middle coronal plane lies behind the corner"


def test_pictures_stand_beside_one_another() -> None:
    row = np.asarray(opened(side_by_side([flat(50, (10, 20)), flat(200, (30, 8))])))
    assert row.shape == (20, 10 + GAP + 30, 3)
    assert (row[:, :10] == 50).all()
    assert (row[:8, 10 + GAP :] == 200).all()


def header_of(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds nothing."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


@pytest.mark.parametrize(
    "png",
    [b"\x89PNG\r\n\x1a\n", b"", flat(9, (9, 9))[:-20], header_of(5000, 5000), header_of(60000, 60000), b"GIF89a"],
    ids=["magic", "nothing", "cut", "large", "bomb", "gif"],
)
def test_a_damaged_or_huge_picture_is_refused(png: bytes) -> None:
    with pytest.raises(InputError, match="picture"):
        side_by_side([png])
