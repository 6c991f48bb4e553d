"""Damaged and hostile pixel data end in a refusal, whatever the decoder does."""

from __future__ import annotations

import struct

import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames

from medidiff.privacy.pixel_data import decode
from medidiff.privacy.policy import CannotClean
from tests.privacy.planting import packaged

BUDGET = 1 << 30


def with_stream(name: str, changes: dict[int, bytes]) -> Dataset:
    """One of pydicom's files, with bytes of its first frame replaced: by place, counted in the frame."""
    dataset = packaged(name)
    stream = bytearray(next(generate_frames(dataset.PixelData, number_of_frames=1)))
    for at, change in changes.items():
        stream[at : at + len(change)] = change
    dataset.PixelData = encapsulate([bytes(stream)])
    return dataset


@pytest.mark.filterwarnings("ignore:The decoded RLE segment")
def test_a_run_longer_than_its_segment_panics_nobody() -> None:
    """pylibjpeg's decoder in Rust panics on it, which no ``except Exception`` sees."""
    pixels, _ = decode(with_stream("MR_small_RLE.dcm", {167: b"\x45", 183: b"\xbe"}), BUDGET)
    assert pixels.shape == (64, 64)


def test_a_codestream_larger_than_its_header_is_refused_before_it_is_decoded() -> None:
    dataset = with_stream("MR_small_jpeg_ls_lossless.dcm", {7: struct.pack(">HH", 60000, 60000)})
    with pytest.raises(CannotClean) as refused:
        decode(dataset, BUDGET)
    assert "60000 x 60000" in str(refused.value.__cause__)
