"""Slice times from where each vendor keeps them, in order of our slices; nothing where they are not certain."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from medidiff.io.dicom import find_series
from tests.io.dicom_series import phantom, write_enhanced, write_series

SLICES, REPETITION_MS = 5, 1000.0
INTERLEAVED = [0.0, 0.6, 0.2, 0.8, 0.4]
Change = Callable[[Dataset, int], None]


def time_series(
    folder: Path, vendor: str, change: Change, *, downwards: bool = False, **attributes: object
) -> tuple[float, ...]:
    """Slice times found in three repetitions of a planar stack; ``change`` is called with the slice's number."""
    uid = generate_uid()
    for number in range(3):

        def one(dataset: Dataset, k: int, number: int = number) -> None:
            dataset.Manufacturer = vendor
            dataset.MRAcquisitionType, dataset.ScanningSequence = "2D", ["EP", "GR"]
            dataset.RepetitionTime = REPETITION_MS
            dataset.TemporalPositionIdentifier = number + 1
            dataset.AcquisitionTime = f"1000{number:02d}"
            for name, value in attributes.items():
                setattr(dataset, name, value)
            change(dataset, k)
            if downwards:
                dataset.InstanceNumber = number * SLICES + SLICES - k

        write_series(
            folder / str(number),
            phantom(SLICES, seed=number),
            series_uid=uid,
            first_number=1 + number * SLICES,
            change=one,
        )
    (plan,) = find_series(folder).series
    assert len(plan.frames) == 3
    return plan.facts.slice_timing


def ge_protocol(text: str) -> Change:
    packed = gzip.compress(text.encode(), mtime=0)

    def change(dataset: Dataset, k: int) -> None:
        del k
        content = len(packed).to_bytes(4, "little") + packed
        dataset.private_block(0x0025, "GEMS_SERS_01", create=True).add_new(0x1B, "OB", content)

    return change


def test_ge_timer_is_in_tenths_of_a_millisecond(tmp_path: Path) -> None:
    def timer(dataset: Dataset, k: int) -> None:
        dataset.private_block(0x0021, "GEMS_RELA_01", create=True).add_new(0x5E, "DS", f"{INTERLEAVED[k] * 1e4:.1f}")

    assert time_series(tmp_path, "GE MEDICAL SYSTEMS", timer) == pytest.approx(INTERLEAVED)


@pytest.mark.parametrize(
    ("protocol", "downwards", "expected"),
    [
        ('set SLICEORDER "1"\nset NOSLC "5"\n', False, INTERLEAVED),
        ('SLICEORDER "0"\nDELACQ "0"\n', False, [0.0, 0.2, 0.4, 0.6, 0.8]),
        ('SLICEORDER "0"\n', True, [0.8, 0.6, 0.4, 0.2, 0.0]),
        ('SLICEORDER "1"\nMBACCEL "2"\n', False, []),
        ('SLICEORDER "1"\nDELACQ "0.5"\n', False, []),
        ('SLICEORDER "1"\nDELACQ "Minimum"\n', False, []),
        ('SLICEORDER "1"\nNOSLC "7"\n', False, []),
        ('VIEWORDER "1"\n', False, []),
    ],
)
def test_ge_protocol_block_gives_the_order(
    protocol: str, downwards: bool, expected: list[float], tmp_path: Path
) -> None:
    found = time_series(tmp_path, "GE MEDICAL SYSTEMS", ge_protocol(protocol), downwards=downwards)
    assert found == pytest.approx(expected)


def test_a_damaged_or_swollen_protocol_says_nothing(tmp_path: Path) -> None:
    def torn(dataset: Dataset, k: int) -> None:
        ge_protocol('SLICEORDER "1"\n')(dataset, k)
        block = dataset.private_block(0x0025, "GEMS_SERS_01")
        block[0x1B].value = block[0x1B].value[:16] + bytes(40)

    assert time_series(tmp_path, "GE MEDICAL SYSTEMS", torn) == ()


def test_siemens_single_slices_have_their_own_clock(tmp_path: Path) -> None:
    def clock(dataset: Dataset, k: int) -> None:
        dataset.AcquisitionTime = f"10000{dataset.TemporalPositionIdentifier}.{INTERLEAVED[k] * 1e6:06.0f}"

    assert time_series(tmp_path, "SIEMENS", clock) == pytest.approx(INTERLEAVED)


def test_siemens_xa_has_the_time_after_the_start(tmp_path: Path) -> None:
    def after(dataset: Dataset, k: int) -> None:
        dataset.private_block(0x0021, "SIEMENS MR SDI 02", create=True).add_new(
            0x04, "DS", f"{12 + INTERLEAVED[k]:.3f}"
        )

    assert time_series(tmp_path, "Siemens Healthineers", after) == pytest.approx(INTERLEAVED)


def test_enhanced_frames_have_a_date_and_time(tmp_path: Path) -> None:
    positions = [(0.0, 0.0, 3.0 * k) for k in range(SLICES)] * 2

    def frame_time(frame: Dataset, number: int) -> None:
        k, volume = number % SLICES, number // SLICES
        seconds = 3.0 + volume + INTERLEAVED[k]
        frame.FrameContentSequence[0].FrameAcquisitionDateTime = f"202401011000{seconds:09.6f}"
        frame.FrameContentSequence[0].TemporalPositionIndex = volume + 1

    path = write_enhanced(tmp_path / "e.dcm", phantom(2 * SLICES), positions, change=frame_time)
    dataset = pydicom.dcmread(path)
    dataset.MRAcquisitionType, dataset.RepetitionTime = "2D", REPETITION_MS
    dataset.save_as(path)
    (plan,) = find_series(path).series
    assert len(plan.frames) == 2
    assert plan.facts.slice_timing == pytest.approx(INTERLEAVED)


@pytest.mark.parametrize(
    "attributes", [{"MRAcquisitionType": "3D"}, {"Manufacturer": "Other"}, {"RepetitionTime": 500.0}]
)
def test_what_is_not_certain_is_not_said(attributes: dict[str, object], tmp_path: Path) -> None:
    """A 3D acquisition, a vendor of whom nothing is known, and times that do not fit into a repetition."""

    def clock(dataset: Dataset, k: int) -> None:
        dataset.AcquisitionTime = f"10000{dataset.TemporalPositionIdentifier}.{INTERLEAVED[k] * 1e6:06.0f}"

    vendor = str(attributes.pop("Manufacturer", "SIEMENS"))
    assert time_series(tmp_path, vendor, clock, **attributes) == ()
