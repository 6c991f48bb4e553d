"""Several images at one place: echoes, parts, b-values and time points are told apart, named and kept in order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from medidiff.io.dicom import Reason, find_series, iter_frames, load
from tests.io.dicom_series import Array, phantom, write_enhanced, write_series

SLICES = 4


def slot_of(data: Array, frame: int = 0) -> Array:
    """A loaded volume back in stored order (k, rows, columns)."""
    return data[frame].transpose(2, 1, 0)


def write_repeats(folder: Path, images: list[Array], change: object, *, interleaved: bool = False) -> None:
    """One series that holds the same places several times; ``change(dataset, k, repeat)`` marks each."""
    uid = generate_uid()
    for number, stored in enumerate(images):

        def mark(dataset: Dataset, k: int, number: int = number) -> None:
            if interleaved:
                dataset.InstanceNumber = 1 + k * len(images) + number
            change(dataset, k, number)  # type: ignore[operator]

        write_series(
            folder, stored, series_uid=uid, first_number=1 + number * SLICES, prefix=f"r{number}_", change=mark
        )


def images(count: int) -> list[Array]:
    return [phantom(SLICES, seed=seed) for seed in range(count)]


def test_echoes_become_volumes(tmp_path: Path) -> None:
    truth = images(3)

    def echo(dataset: Dataset, k: int, number: int) -> None:
        del k
        dataset.EchoTime = [20.0, 5.0, 12.5][number]

    write_repeats(tmp_path, truth, echo)
    report = find_series(tmp_path)
    assert [plan.label for plan in report.series] == ["echo-1", "echo-2", "echo-3"]
    for plan, number in zip(report.series, (1, 2, 0), strict=True):
        np.testing.assert_array_equal(slot_of(load(plan).data), truth[number])
    assert report.series[0].facts.echo_time == pytest.approx(0.005)


def test_magnitude_and_phase_become_volumes(tmp_path: Path) -> None:
    truth = images(2)

    def part(dataset: Dataset, k: int, number: int) -> None:
        del k
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "MP"[number], "ND"]

    write_repeats(tmp_path, truth, part)
    plans = {plan.label: plan for plan in find_series(tmp_path).series}
    assert set(plans) == {"type-m", "type-p"}
    np.testing.assert_array_equal(slot_of(load(plans["type-p"]).data), truth[1])


@pytest.mark.parametrize("interleaved", [False, True])
def test_time_points_become_frames(interleaved: bool, tmp_path: Path) -> None:
    truth = images(5)

    def time(dataset: Dataset, k: int, number: int) -> None:
        del k
        dataset.TemporalPositionIdentifier = 5 - number  # acquired against the order of writing

    write_repeats(tmp_path, truth, time, interleaved=interleaved)
    (plan,) = find_series(tmp_path).series
    data = load(plan).data
    assert data.shape == (5, 8, 10, SLICES)
    for frame in range(5):
        np.testing.assert_array_equal(slot_of(data, frame), truth[4 - frame])
    parts = list(iter_frames(plan))
    assert [label for label, _ in parts] == ["t000", "t001", "t002", "t003", "t004"]
    np.testing.assert_array_equal(parts[2][1].data[0], data[2])


@pytest.mark.parametrize("interleaved", [False, True])
def test_time_points_without_any_mark_go_by_instance_number(interleaved: bool, tmp_path: Path) -> None:
    truth = images(3)
    write_repeats(tmp_path, truth, lambda dataset, k, number: None, interleaved=interleaved)
    (plan,) = find_series(tmp_path).series
    assert any("instance number" in note for note in plan.notes)
    data = load(plan).data
    for frame in range(3):
        np.testing.assert_array_equal(slot_of(data, frame), truth[frame])


def test_time_points_without_any_order_are_refused(tmp_path: Path) -> None:
    def number_alike(dataset: Dataset, k: int, number: int) -> None:
        del number
        dataset.InstanceNumber = k + 1

    write_repeats(tmp_path, images(3), number_alike)
    assert find_series(tmp_path).reasons() == {Reason.CONFLICTING_POSITIONS: 12}


def test_echoes_times_time_points(tmp_path: Path) -> None:
    truth = images(6)

    def both(dataset: Dataset, k: int, number: int) -> None:
        del k
        dataset.EchoTime = 5.0 * (1 + number % 2)
        dataset.TemporalPositionIdentifier = 1 + number // 2

    write_repeats(tmp_path, truth, both)
    report = find_series(tmp_path)
    assert [(plan.label, len(plan.frames)) for plan in report.series] == [("echo-1", 3), ("echo-2", 3)]
    np.testing.assert_array_equal(slot_of(load(report.series[1]).data, 2), truth[5])


def test_b_values_and_directions(tmp_path: Path) -> None:
    truth = images(4)
    gradients = [(0.0, None), (1000.0, (1.0, 0.0, 0.0)), (1000.0, (0.0, 1.0, 0.0)), (2000.0, (0.0, 0.0, 1.0))]

    def weight(dataset: Dataset, k: int, number: int) -> None:
        del k
        b_value, direction = gradients[number]
        dataset.DiffusionBValue = b_value
        if direction is not None:
            dataset.DiffusionGradientOrientation = list(direction)

    write_repeats(tmp_path, truth, weight)
    (plan,) = find_series(tmp_path).series
    assert [frame.label for frame in plan.frames] == ["t000_b0", "t001_b1000", "t002_b1000", "t003_b2000"]
    assert [frame.direction for frame in plan.frames] == [direction for _, direction in gradients]
    np.testing.assert_array_equal(slot_of(load(plan).data, 2), truth[2])


def test_a_scan_that_was_stopped(tmp_path: Path) -> None:
    """The last time point lacks slices: it is set aside, the whole ones are kept."""
    truth = images(4)

    def time(dataset: Dataset, k: int, number: int) -> None:
        del k
        dataset.TemporalPositionIdentifier = number + 1

    write_repeats(tmp_path, truth, time)
    for path in tmp_path.glob("r3_*_[23].dcm"):
        path.unlink()
    report = find_series(tmp_path)
    assert len(report.series[0].frames) == 3
    assert report.reasons()[Reason.INCOMPLETE_FRAME] == 2


def test_what_varies_from_slice_to_slice_tears_nothing_apart(tmp_path: Path) -> None:
    """Acquisition number, trigger time, exposure and even echo time may differ between slices of one volume."""

    def vary(dataset: Dataset, k: int) -> None:
        dataset.AcquisitionNumber = 4 + k // 2
        dataset.TriggerTime = 100.0 * k
        dataset.EchoTime = 5.0 + 0.001 * k
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", f"SLICE{k}"]

    write_series(tmp_path, phantom(SLICES), change=vary)
    report = find_series(tmp_path)
    assert [plan.geometry.shape for plan in report.series] == [(8, 10, SLICES)]


def test_two_stacks_of_one_series(tmp_path: Path) -> None:
    """Two orientations with enough slices each are two volumes, numbered."""
    uid = generate_uid()
    write_series(tmp_path / "a", phantom(SLICES), series_uid=uid)
    sagittal = ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
    write_series(tmp_path / "b", phantom(SLICES), series_uid=uid, directions=sagittal)
    assert [plan.label for plan in find_series(tmp_path).series] == ["stack-1", "stack-2"]


def test_series_that_share_a_uid_but_not_a_number(tmp_path: Path) -> None:
    uid = generate_uid()
    for number in (1, 2):

        def renumber(dataset: Dataset, k: int, number: int = number) -> None:
            del k
            dataset.SeriesNumber = number

        write_series(tmp_path / str(number), phantom(SLICES, seed=number), series_uid=uid, change=renumber)
    assert [plan.series_number for plan in find_series(tmp_path).series] == [1, 2]


def repeated(count: int) -> tuple[Array, list[list[float]]]:
    """Frames and positions of an enhanced object: slices run first, repeats second."""
    stored = np.concatenate(images(count))
    return stored, [[0.0, 0.0, 3.0 * k] for _ in range(count) for k in range(SLICES)]


def test_enhanced_time_points(tmp_path: Path) -> None:
    stored, positions = repeated(3)

    def time(frame: Dataset, number: int) -> None:
        frame.FrameContentSequence[0].TemporalPositionIndex = 1 + number // SLICES

    write_enhanced(tmp_path / "e.dcm", stored, positions, change=time)
    (plan,) = find_series(tmp_path).series
    data = load(plan).data
    assert data.shape == (3, 8, 10, SLICES)
    np.testing.assert_array_equal(slot_of(data, 1), stored[SLICES : 2 * SLICES])


def test_enhanced_echoes_and_scaling_of_each_frame(tmp_path: Path) -> None:
    stored, positions = repeated(2)

    def echo(frame: Dataset, number: int) -> None:
        frame.MREchoSequence = Sequence([Dataset()])
        frame.MREchoSequence[0].EffectiveEchoTime = 4.0 * (1 + number // SLICES)
        frame.PixelValueTransformationSequence = Sequence([Dataset()])
        frame.PixelValueTransformationSequence[0].RescaleSlope = str(1 + number)
        frame.PixelValueTransformationSequence[0].RescaleIntercept = str(-number)

    write_enhanced(tmp_path / "e.dcm", stored, positions, change=echo)
    first, second = find_series(tmp_path).series
    assert [first.label, second.label] == ["echo-1", "echo-2"]
    number = np.arange(SLICES, 2 * SLICES)[:, None, None]
    np.testing.assert_array_equal(slot_of(load(second).data), stored[SLICES:] * (1.0 + number) - number)


def test_enhanced_volume_a_file(tmp_path: Path) -> None:
    """Siemens XA: each time point an object of its own, with nothing in the frames that tells them apart."""
    truth, uid = images(3), generate_uid()
    for number, stored in enumerate(truth):

        def name(frame: Dataset, k: int) -> None:
            del frame, k

        path = write_enhanced(
            tmp_path / f"{3 - number}.dcm",
            stored,
            [[0.0, 0.0, 3.0 * k] for k in range(SLICES)],
            change=name,
            series_uid=uid,
        )
        import pydicom

        dataset = pydicom.dcmread(path)
        dataset.InstanceNumber = number + 1
        dataset.save_as(path)
    (plan,) = find_series(tmp_path).series
    data = load(plan).data
    for frame in range(3):
        np.testing.assert_array_equal(slot_of(data, frame), truth[frame])


def test_a_frame_goes_before_what_all_share(tmp_path: Path) -> None:
    """Against the standard both may hold a group: the nearer one counts."""

    def measure(frame: Dataset, number: int) -> None:
        del number
        frame.PixelMeasuresSequence = Sequence([Dataset()])
        frame.PixelMeasuresSequence[0].PixelSpacing = [2.0, 2.5]

    stored, positions = repeated(1)
    write_enhanced(tmp_path / "e.dcm", stored, positions, change=measure)
    assert find_series(tmp_path).series[0].geometry.spacing == pytest.approx((2.5, 2.0, 3.0))


def test_enhanced_with_fewer_groups_than_frames(tmp_path: Path) -> None:
    stored, positions = repeated(1)
    write_enhanced(tmp_path / "e.dcm", stored, positions[:-1])
    assert find_series(tmp_path).reasons() == {Reason.NO_GEOMETRY: 1}


def test_frames_without_groups_have_no_place(tmp_path: Path) -> None:
    def multi(dataset: Dataset, k: int) -> None:
        del k
        dataset.NumberOfFrames = 2
        dataset.PixelData = dataset.PixelData * 2

    write_series(tmp_path, phantom(1), change=multi)
    assert find_series(tmp_path).reasons() == {Reason.NO_GEOMETRY: 1}
