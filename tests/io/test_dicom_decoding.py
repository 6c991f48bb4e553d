"""Compressed pixels: the same numbers as in this process, and a decoder that can be stopped."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import get_decoder

from medidiff.io.dicom import Reason, SeriesRefused, decoding, find_series, load
from medidiff.io.dicom import pixels as pixels_of
from medidiff.io.dicom.decoding import DecodeFailed, DecodeLimits, decode
from medidiff.privacy.pixel_data import decode as decode_to_clean
from medidiff.privacy.policy import CannotClean
from tests.io.dicom_series import TEST_FILES
from tests.io.test_dicom_fuzz import mutate

J2K = "MR_small_jp2klossless.dcm"
HASTY = DecodeLimits(seconds=0, seconds_per_megavoxel=0, grace=300)


def packaged(name: str = J2K) -> tuple[Dataset, str]:
    dataset = pydicom.dcmread(TEST_FILES / name)
    return dataset, str(dataset.file_meta.TransferSyntaxUID)


def endless(copies: int = 8000) -> Dataset:
    """One frame thousands of times: half a minute's work for a decoder."""
    dataset, _ = packaged()
    (frame,) = generate_frames(dataset.PixelData, number_of_frames=1)
    dataset.PixelData = encapsulate([frame] * copies)
    dataset.NumberOfFrames = copies
    return dataset


def alone() -> None:
    """End the helper, so that the next one has served nobody."""
    decoding._helper().end()


COMPRESSED = sorted(
    path.name
    for path in TEST_FILES.glob("*.dcm")
    if path.stat().st_size < 400_000
    and (syntax := pydicom.dcmread(path, stop_before_pixels=True, force=True).get("file_meta", {}))
    and str(syntax.get("TransferSyntaxUID", "")).startswith(("1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.5"))
)


@pytest.mark.parametrize("name", COMPRESSED)
def test_the_helper_gives_what_a_decoder_here_gives(name: str) -> None:
    dataset, syntax = packaged(name)
    plugin = "pydicom" if syntax == decoding.RLE else ""
    try:
        expected, described = get_decoder(syntax).as_array(dataset, raw=True, decoding_plugin=plugin)
    except (RuntimeError, ValueError, NotImplementedError, AttributeError):
        with pytest.raises(DecodeFailed) as refused:
            decode(dataset, syntax)
        assert not refused.value.stopped
        return
    array, properties = decode(dataset, syntax)
    np.testing.assert_array_equal(array, expected)
    assert (array.dtype, array.flags.writeable) == (expected.dtype, True)
    assert properties["photometric_interpretation"] == described["photometric_interpretation"]


def test_a_decoder_that_goes_on_and_on_is_ended_and_the_next_image_is_read() -> None:
    dataset = endless()
    process = decoding._helper()._process
    with pytest.raises(DecodeFailed, match="took longer than 0 s") as refused:
        decode(dataset, str(dataset.file_meta.TransferSyntaxUID), HASTY)
    assert refused.value.stopped
    assert process.poll() is not None
    dataset, syntax = packaged()
    assert decode(dataset, syntax)[0].shape == (64, 64)


def test_a_stream_that_kept_its_decoder_busy_without_end_does_so_no_more() -> None:
    """The mutant on which libjpeg was still working, and still allocating, after a quarter of a minute.

    What it took it never gives back: images after it must not suffer.
    """
    pytest.importorskip("libjpeg")
    dataset, syntax = packaged("JPGExtended.dcm")
    whole = bytes(dataset.PixelData)
    dataset.PixelData = mutate(whole, random.Random(2447))
    with pytest.raises(DecodeFailed) as refused:
        decode(dataset, syntax)
    assert refused.value.stopped
    dataset.PixelData = whole
    assert decode(dataset, syntax, DecodeLimits(memory=256 << 20))[0].shape == (1024, 256)


def test_a_decoder_that_waits_for_ever_has_a_typed_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(TEST_FILES / J2K, tmp_path / "one.dcm")
    (plan,) = find_series(tmp_path).series
    hurried = partial(decode, limits=DecodeLimits(clock=0, grace=1))
    monkeypatch.setattr(pixels_of, "decode", hurried)
    monkeypatch.setattr("medidiff.privacy.pixel_data.decode_stream", hurried)
    os.kill(decoding._helper()._process.pid, signal.SIGSTOP)
    with pytest.raises(SeriesRefused, match="no answer for 1 s") as refused:
        load(plan)
    assert refused.value.reason is Reason.DECODER_STOPPED
    os.kill(decoding._helper()._process.pid, signal.SIGSTOP)
    with pytest.raises(CannotClean) as unclean:
        decode_to_clean(packaged()[0], 1 << 20)
    assert unclean.value.reason == "decoder-stopped"
    assert load(plan).data.shape == (1, 64, 64, 1)


def test_a_crash_is_a_reason_and_not_the_end() -> None:
    alone()
    dataset = endless()
    process = decoding._helper()._process
    timer = threading.Timer(0.7, process.send_signal, [signal.SIGSEGV])
    timer.start()
    with pytest.raises(DecodeFailed, match="crashed"):
        decode(dataset, str(dataset.file_meta.TransferSyntaxUID))
    timer.join()
    dataset, syntax = packaged()
    assert decode(dataset, syntax)[0].shape == (64, 64)


def test_a_decoder_gets_no_more_memory_than_its_limit() -> None:
    dataset = endless(2000)
    dataset.NumberOfFrames = 2_000_000
    with pytest.raises(DecodeFailed, match="more memory than the image can need"):
        decode(dataset, str(dataset.file_meta.TransferSyntaxUID), DecodeLimits(memory=-(480 << 30)))


def test_a_fork_starts_a_helper_of_its_own() -> None:
    dataset, syntax = packaged()
    expected = decode(dataset, syntax)[0]
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if np.array_equal(decode(dataset, syntax)[0], expected) else 2
        finally:
            decoding._leave()
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(decode(dataset, syntax)[0], expected)
