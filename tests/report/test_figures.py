"""The preview picture: anatomy on the right side, voxels as they are, the same bytes every time."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from medidiff.errors import InputError
from medidiff.geometry import Geometry
from medidiff.report.figures import FOOTER, HEADER, preview, preview_png
from medidiff.report.planes import telling_planes, three_planes
from medidiff.volume import Modality, Volume


@pytest.fixture(scope="module")
def head(mni: Volume) -> Volume:
    """The MNI152 T1 thinned to 3 mm, to keep pictures small."""
    affine = mni.geometry.affine @ np.diag([3, 3, 3, 1])
    data = np.ascontiguousarray(mni.data[:, ::3, ::3, ::3])
    return Volume(data, Geometry(affine, data.shape[1:]), Modality.MR)


@pytest.fixture(scope="module")
def thick(head: Volume) -> Volume:
    """Four slices in one along k."""
    count = head.data.shape[3] // 4
    data = head.data[..., : count * 4].reshape(*head.data.shape[:3], count, 4).mean(axis=4)
    geometry = head.geometry.cropped((0, 0, 0), (*head.geometry.shape[:2], count * 4)).resampled(2, count, 12.0)
    return Volume(data, geometry, Modality.MR)


def scaled(volume: Volume, factor: float) -> Volume:
    return Volume(volume.data * factor, volume.geometry, volume.modality)


def picture(png: bytes) -> np.ndarray:
    return np.asarray(imread(BytesIO(png)))[..., :3]


def test_the_patients_right_is_on_the_left_and_the_top_is_anterior_or_superior(head: Volume) -> None:
    axial, coronal, sagittal = (plane.world for plane in three_planes(head, pixel=2.0))
    for world, leftwards, upwards in ((axial, 0, 1), (coronal, 0, 2), (sagittal, 1, 2)):
        assert world[0, 0, leftwards] > world[0, -1, leftwards] + 100
        assert world[0, 0, upwards] > world[-1, 0, upwards] + 100
    names = [(plane.name, plane.letters) for plane in three_planes(head, pixel=2.0)]
    assert names == [
        ("Axial", ("R", "L", "A", "P")), ("Coronal", ("R", "L", "S", "I")), ("Sagittal", ("A", "P", "S", "I")),
    ]  # fmt: skip


def test_a_mark_on_the_patients_right_front_is_drawn_at_the_left_top(head: Volume) -> None:
    plane = three_planes(head, pixel=2.0)[0]
    data = head.data.copy()
    world = np.array([40.0, 60.0, plane.world[0, 0, 2]])  # RAS: right, anterior
    i, j, k = np.round(head.geometry.to_index(world)).astype(int)
    data[0, i, j, k] = 9999
    image = plane.sample(Volume(data, head.geometry), order=0)
    rows, columns = np.nonzero(image == 9999)
    assert columns.max() < image.shape[1] / 2
    assert rows.max() < image.shape[0] / 2


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_storage_order_of_axes_does_not_change_the_picture(head: Volume, order: tuple[int, int, int]) -> None:
    expected = [plane.sample(head, order=1) for plane in three_planes(head, pixel=2.0)]
    for flips in product((False, True), repeat=3):
        matrix = np.zeros((4, 4))
        matrix[3, 3] = 1
        for new, old in enumerate(order):
            matrix[old, new] = -1 if flips[new] else 1
            matrix[old, 3] = head.geometry.shape[old] - 1 if flips[new] else 0
        data = head.data.transpose(0, *(a + 1 for a in order))
        data = data[(slice(None), *(slice(None, None, -1) if f else slice(None) for f in flips))]
        stored = Volume(data, Geometry(head.geometry.affine @ matrix, data.shape[1:]))
        found = [plane.sample(stored, order=1) for plane in three_planes(stored, pixel=2.0)]
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_an_oblique_head_is_cut_along_its_own_axes(head: Volume) -> None:
    angle = np.deg2rad(20)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    oblique = Volume(head.data, Geometry(turn @ head.geometry.affine, head.geometry.shape))
    for upright, turned in zip(three_planes(head, pixel=2.0), three_planes(oblique, pixel=2.0), strict=True):
        np.testing.assert_allclose(turned.sample(oblique, order=1), upright.sample(head, order=1), atol=1e-5)


def test_thick_voxels_are_shown_as_they_are_at_their_true_aspect(head: Volume, thick: Volume) -> None:
    _, coronal, _ = three_planes(head, pixel=1.0)
    image = coronal.sample(thick, order=0)
    column = image[:, image.shape[1] // 2]
    values = set(column[np.isfinite(column)].tolist())
    assert values <= set(np.unique(thick.data).tolist())
    changes = np.flatnonzero(np.diff(column[np.isfinite(column)]))
    assert np.all(np.diff(changes) % 12 == 0)  # 12 mm slices at 1 mm a pixel


@pytest.mark.parametrize(
    ("order", "flat", "names"),
    [((0, 1, 2), 1, ["Axial"]), ((0, 1, 2), 7, ["Axial"]), ((0, 1, 2), 8, ["Axial", "Coronal", "Sagittal"]),
     ((0, 2, 1), 1, ["Coronal"]), ((1, 2, 0), 3, ["Sagittal"])],
)  # fmt: skip
def test_of_a_few_slices_only_their_own_plane_is_shown(
    head: Volume, order: tuple[int, int, int], flat: int, names: list[str]
) -> None:
    """``order`` stores the axes otherwise: the last one has a few slices, whichever way it points in the person."""
    first = tuple(head.geometry.shape[axis] // 2 if axis == order[2] else 0 for axis in range(3))
    sizes = tuple(flat if axis == order[2] else head.geometry.shape[axis] for axis in range(3))
    grid = head.geometry.cropped(first, sizes)
    box = tuple(slice(start, start + size) for start, size in zip(first, sizes, strict=True))
    matrix = np.eye(4)[:, [*order, 3]]
    data = np.ascontiguousarray(head.data[(slice(None), *box)].transpose(0, *(axis + 1 for axis in order)))
    slices = Volume(data, Geometry(grid.affine @ matrix, data.shape[1:]), Modality.MR)
    assert [plane.name for plane in telling_planes(slices, pixel=2.0)] == names


def test_something_is_shown_of_however_little(head: Volume) -> None:
    rod = head.geometry.cropped((10, 30, 30), (40, 5, 3))
    volume = Volume(np.ascontiguousarray(head.data[:, 10:50, 30:35, 30:33]), rod, Modality.MR)
    assert [plane.name for plane in telling_planes(volume, pixel=2.0)] == ["Axial"]


def test_one_slice_makes_a_picture_of_one_row(head: Volume) -> None:
    one = Volume(head.data[..., 30:31], head.geometry.cropped((0, 0, 30), (*head.geometry.shape[:2], 1)), Modality.MR)
    rows = telling_planes(one, pixel=1.5)[0].world.shape[0]
    drawn = picture(preview_png(one, {"medidiff": one}, title="T1"))
    assert drawn.shape[0] == HEADER + rows + FOOTER


def test_nothing_is_drawn_outside_the_voxels(head: Volume) -> None:
    half = head.geometry.cropped((0, 0, 0), (head.geometry.shape[0] // 2, *head.geometry.shape[1:]))
    left = Volume(head.data[:, : half.shape[0]], half)
    axial = three_planes(head, pixel=2.0)[0]
    image = axial.sample(left, order=1)
    edge = left.geometry.to_world(np.array([half.shape[0] - 0.5, 0, 0]))[0]
    np.testing.assert_array_equal(np.isnan(image), axial.world[..., 0] > edge + 1e-6)


def test_the_same_volumes_give_the_same_bytes_and_no_metadata(head: Volume, thick: Volume) -> None:
    panels = {"Cubic": head, "medidiff": scaled(head, 1.1)}
    first, second = (preview_png(thick, panels, title="T1", truth=head) for _ in range(2))
    assert first == second
    assert first.startswith(b"\x89PNG")
    for chunk in (b"tEXt", b"iTXt", b"zTXt", b"tIME", b"Software", b"Creation"):
        assert chunk not in first


def test_columns_are_added_for_truth_and_uncertainty(head: Volume, thick: Volume) -> None:
    panels = {"Cubic": head, "medidiff": scaled(head, 1.1)}
    plain = picture(preview_png(thick, panels, title="T1")).shape[1]
    truth = picture(preview_png(thick, panels, title="T1", truth=head)).shape[1]
    both = picture(preview_png(thick, panels, title="T1", truth=head, uncertainty=head)).shape[1]
    step = (truth - plain) / 2
    assert both - truth == pytest.approx(step, abs=1)


def test_equal_reconstructions_leave_the_difference_dark(head: Volume, thick: Volume) -> None:
    """Every pixel of the fourth column's pictures is the background colour; with a change it is not."""
    equal, other = (
        picture(preview_png(thick, {"Cubic": head, "medidiff": scaled(head, factor)}, title="")) for factor in (1, 1.3)
    )
    column = slice(int(equal.shape[1] * 0.77), int(equal.shape[1] * 0.98))
    body = slice(100, equal.shape[0] - 70)
    background = equal[0, 0]
    assert np.abs(equal[body, column] - background).max() < 0.02
    assert np.abs(other[body, column] - background).max() > 0.3


def test_one_reconstruction_or_four_dimensions_are_fine(head: Volume, thick: Volume) -> None:
    frames = Volume(np.concatenate([head.data, 0 * head.data]), head.geometry)
    assert preview_png(thick, {"Cubic": frames}, title="") == preview_png(thick, {"Cubic": head}, title="")
    with pytest.raises(InputError, match="at least one"):
        preview_png(thick, {}, title="")


def test_ct_is_shown_in_a_soft_tissue_window(head: Volume) -> None:
    """Water and fat must differ visibly although bone spans the range."""
    data = np.full(head.data.shape, -1000.0)
    data[0, 10:-10, 10:-10, 10:-10] = 0
    data[0, 20:30, 20:-20, 10:-10] = -100
    data[0, 30:34] = 1500
    ct = Volume(data, head.geometry, Modality.CT)
    shades = np.round(picture(preview_png(ct, {"Cubic": ct}, title=""))[..., 0] * 255)
    for expected in (round(255 * 160 / 400), round(255 * 60 / 400)):  # water and fat, each a good part of the picture
        assert (np.abs(shades - expected) <= 2).mean() > 0.02


def test_the_input_is_drawn_voxel_by_voxel_and_the_others_smoothly(head: Volume) -> None:
    """Voxels that are black or white at random leave the first column without greys, and the second full of them."""
    noise = np.random.default_rng(0).integers(0, 2, head.data.shape).astype(np.float32)
    random = Volume(noise, head.geometry)
    image = picture(preview_png(random, {"Cubic": random}, title=""))[100:-70, :, 0]
    grey = (image > 0.25) & (image < 0.75)
    first, second = grey[:, : image.shape[1] // 2].mean(), grey[:, image.shape[1] // 2 :].mean()
    assert first < 0.02
    assert second > 0.2


def test_a_constant_volume_still_makes_a_picture(head: Volume) -> None:
    flat = Volume(np.full(head.data.shape, 5.0), head.geometry)
    panels = {"Cubic": flat, "medidiff": flat}
    assert preview_png(flat, panels, title="$5_", uncertainty=scaled(flat, 0)).startswith(b"\x89PNG")


def test_the_file_is_written_whole(head: Volume, thick: Volume, tmp_path: Path) -> None:
    preview(thick, {"Cubic": head}, title="T1", out=tmp_path / "preview.png")
    assert (tmp_path / "preview.png").read_bytes() == preview_png(thick, {"Cubic": head}, title="T1")
    assert [p.name for p in tmp_path.iterdir()] == ["preview.png"]


def test_drawing_never_loads_pyplot() -> None:
    code = "import sys, medidiff.report.figures; sys.exit('matplotlib.pyplot' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
