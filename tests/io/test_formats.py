"""The contract of every file format: a scan comes back with its values, in its place, from the same bytes."""

from __future__ import annotations

import importlib
import itertools
import pkgutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

import medidiff.io
from medidiff.errors import InputError, OutputError
from medidiff.geometry import Geometry
from medidiff.io import check_restorable, probe, read_volume, write_volume
from medidiff.io.formats import FORMATS
from medidiff.volume import Modality, Volume

SUFFIXES = [suffix for known in FORMATS for suffix in known.suffixes]

# NIfTI and MGH keep their geometry in single precision: half a micrometre at half a metre.
MOST_MM = 1e-4


def grid(matrix: NDArray[np.float64], shape: tuple[int, int, int] = (4, 5, 6)) -> Geometry:
    affine = np.eye(4)
    affine[:3, :3] = matrix
    affine[:3, 3] = (-91.25, 126.5, -72.125)
    return Geometry(affine, shape)


def rotation(seed: int) -> NDArray[np.float64]:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]


def scan(geometry: Geometry, frames: int = 1, modality: Modality = Modality.MR) -> Volume:
    data = np.random.default_rng(1).normal(300.0, 80.0, size=(frames, *geometry.shape)).astype(np.float32)
    return Volume(data, geometry, modality)


def grids() -> dict[str, Geometry]:
    """All 48 orientations, obliques of both hands, anisotropic and tiny voxels."""
    every = {}
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[list(order), range(3)] = np.array(signs) * (0.9, 1.2, 5.0)
            geometry = grid(matrix)
            every[geometry.orientation] = geometry
    for seed in range(6):
        every[f"oblique-{seed}"] = grid(rotation(seed) * np.array([0.488, 0.488, 6.5]))
    every["isotropic-micro"] = grid(np.eye(3) * 0.025)
    every["very-thick"] = grid(rotation(9) * np.array([0.3, 0.3, 25.0]))
    every["long"] = grid(np.eye(3), (400, 2, 3))
    return every


GRIDS = grids()


def test_all_48_orientations_are_tried() -> None:
    assert len([name for name in GRIDS if len(name) == 3]) == 48


def test_every_reader_is_in_the_registry() -> None:
    modules = [importlib.import_module(f"medidiff.io.{m.name}") for m in pkgutil.iter_modules(medidiff.io.__path__)]
    readers = {module.declare for module in modules if hasattr(module, "recognises")}
    assert readers == {known.declare for known in FORMATS}
    assert {known.name for known in FORMATS} == {"NIfTI", "NRRD", "MGH"}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", GRIDS)
def test_values_and_place_survive(suffix: str, name: str, tmp_path: Path) -> None:
    volume = scan(GRIDS[name])
    path = write_volume(volume, tmp_path / f"scan{suffix}")
    back = read_volume(path)
    assert np.array_equal(back.data, volume.data)
    assert back.data.dtype == np.float32
    assert back.geometry.shape == volume.geometry.shape
    assert back.geometry.distance(volume.geometry) < MOST_MM


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", ["RAS", "LPS", "ASL", "oblique-0", "oblique-1"])
def test_frames_survive_with_their_time_step(suffix: str, name: str, tmp_path: Path) -> None:
    volume = scan(GRIDS[name], frames=3)
    path = write_volume(volume, tmp_path / f"scan{suffix}", frame_step=2.25)
    back = read_volume(path)
    assert np.array_equal(back.data, volume.data)
    assert back.geometry.distance(volume.geometry) < MOST_MM
    info = probe(path)
    assert (info.frames, info.frame_step) == (3, 2.25)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_probe_says_what_reading_gives(suffix: str, tmp_path: Path) -> None:
    volume = scan(GRIDS["oblique-2"], frames=2)
    path = write_volume(volume, tmp_path / f"scan{suffix}")
    info, back = probe(path), read_volume(path)
    assert info.geometry == back.geometry
    assert info.dtype == "float32"
    assert info.bytes_needed == back.data.nbytes
    assert info.notes == ()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32"])
def test_integers_that_fit_are_stored_as_they_are(suffix: str, dtype: str, tmp_path: Path) -> None:
    data = np.arange(120, dtype=np.float32).reshape(1, 4, 5, 6)
    path = write_volume(Volume(data, GRIDS["RAS"]), tmp_path / f"scan{suffix}", dtype=dtype)
    assert np.array_equal(read_volume(path).data, data)
    assert probe(path).dtype == dtype
    assert probe(path).scaling.is_identity


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_name_does_not_matter_for_reading(suffix: str, tmp_path: Path) -> None:
    volume = scan(GRIDS["PIR"])
    path = write_volume(volume, tmp_path / f"scan{suffix}")
    assert np.array_equal(read_volume(path.rename(tmp_path / "scan.jpg")).data, volume.data)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_scan_gives_the_same_bytes_and_no_name(suffix: str, tmp_path: Path) -> None:
    volume = scan(GRIDS["RAS"])
    first = write_volume(volume, tmp_path / f"john-doe{suffix}").read_bytes()
    second = write_volume(volume, tmp_path / f"jane{suffix}").read_bytes()
    assert first == second
    assert b"john" not in first


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_views_with_negative_strides_are_written_right(suffix: str, tmp_path: Path) -> None:
    volume = scan(GRIDS["RAS"], frames=2)
    view = Volume(volume.data[:, ::-1, :, ::-1].transpose(0, 2, 1, 3), Geometry(np.eye(4), (5, 4, 6)))
    assert np.array_equal(read_volume(write_volume(view, tmp_path / f"scan{suffix}")).data, view.data)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_cut_file_is_one_clear_error(suffix: str, tmp_path: Path) -> None:
    path = write_volume(scan(GRIDS["RAS"]), tmp_path / f"scan{suffix}")
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(InputError, match="cut short") as caught:
        read_volume(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", [s for s in SUFFIXES if s not in (".nii", ".nii.gz")])
def test_formats_without_scaling_refuse_values_that_do_not_fit(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no scaling"):
        write_volume(scan(GRIDS["RAS"]), tmp_path / f"scan{suffix}", dtype="int16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_integers_refuse_nan(suffix: str, tmp_path: Path) -> None:
    volume = scan(GRIDS["RAS"])
    volume.data[0, 1, 2, 3] = np.nan
    with pytest.raises(OutputError, match="NaN"):
        write_volume(volume, tmp_path / f"scan{suffix}", dtype="int16")
    back = read_volume(write_volume(volume, tmp_path / f"scan{suffix}"))
    assert np.array_equal(back.data, volume.data, equal_nan=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", ["float16", "bool", "complex64", "S4"])
def test_types_without_a_place_are_refused(suffix: str, dtype: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"holds float32|has no type for"):
        write_volume(scan(GRIDS["RAS"]), tmp_path / f"scan{suffix}", dtype=dtype)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("value", "words"), [(1e300, "beyond the end of float32"), (1j, "no intensities")])
def test_values_without_a_place_are_refused(suffix: str, value: complex, words: str, tmp_path: Path) -> None:
    volume = Volume(np.full((1, 4, 5, 6), value), GRIDS["RAS"])
    with pytest.raises(OutputError, match=words):
        write_volume(volume, tmp_path / f"scan{suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", ["bool", "int64", ">i2", "float64", ">f4"])
def test_volumes_of_other_types_are_written(suffix: str, dtype: str, tmp_path: Path) -> None:
    data = (np.arange(120).reshape(1, 4, 5, 6) % 2).astype(dtype)
    path = write_volume(Volume(data, GRIDS["RAS"]), tmp_path / f"scan{suffix}", dtype=">f4")
    assert np.array_equal(read_volume(path).data, data.astype(np.float32))
    assert probe(path).dtype == "float32"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_input_is_never_overwritten(suffix: str, tmp_path: Path) -> None:
    volume = scan(GRIDS["RAS"])
    path = write_volume(volume, tmp_path / f"scan{suffix}")
    before = path.read_bytes()
    link = tmp_path / f"link{suffix}"
    link.symlink_to(path)
    for target in (path, link):
        with pytest.raises(OutputError, match="it is the input"):
            write_volume(Volume(volume.data + 1, volume.geometry), target, source=path)
    assert path.read_bytes() == before


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"must end in one of \.nii, \.nii\.gz, \.nrrd, \.mgh, \.mgz"):
        write_volume(scan(GRIDS["RAS"]), tmp_path / "scan.png")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd"])
@pytest.mark.parametrize("name", [*itertools.islice(GRIDS, 0, 48, 5), "oblique-0", "oblique-1", "very-thick"])
def test_itk_finds_the_scan_where_we_put_it(suffix: str, name: str, tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    volume = scan(GRIDS[name])
    image = sitk.ReadImage(str(write_volume(volume, tmp_path / f"scan{suffix}")))
    for index in itertools.product(*((0, n - 1) for n in volume.geometry.shape)):
        x, y, z = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose((-x, -y, z), volume.geometry.to_world(np.array(index)), atol=MOST_MM)
        assert image.GetPixel(*index) == volume.data[(0, *index)]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgh", ".mgz"])
@pytest.mark.parametrize("name", [*itertools.islice(GRIDS, 0, 48, 5), "oblique-0", "oblique-1"])
def test_nibabel_finds_the_scan_where_we_put_it(suffix: str, name: str, tmp_path: Path) -> None:
    volume = scan(GRIDS[name], frames=2)
    image = nibabel.load(write_volume(volume, tmp_path / f"scan{suffix}"))
    np.testing.assert_allclose(image.affine, volume.geometry.affine, atol=MOST_MM)
    assert np.array_equal(np.moveaxis(np.asarray(image.dataobj), -1, 0), volume.data)


def test_the_packaged_head_is_read_as_nibabel_reads_it(mni: Volume, mni_path: Path) -> None:
    volume = read_volume(mni_path)
    assert np.array_equal(volume.data, mni.data)
    assert volume.geometry == mni.geometry


@pytest.mark.parametrize(
    "name",
    ["anatomical.nii", "example4d.nii.gz", "functional.nii", "example_nifti2.nii.gz", "standard.nii.gz"],
)
def test_files_that_nibabel_ships_are_read_as_nibabel_reads_them(name: str) -> None:
    path = Path(nibabel.__file__).parent / "tests" / "data" / name
    if not path.exists():
        pytest.skip(f"this nibabel does not ship {name}")
    volume, image = read_volume(path), nibabel.load(path)
    expected = np.asarray(image.get_fdata(dtype=np.float64))
    expected = expected[None] if expected.ndim == 3 else np.moveaxis(expected, -1, 0)
    np.testing.assert_allclose(volume.data, expected, rtol=1e-6, equal_nan=True)
    np.testing.assert_allclose(volume.geometry.affine, image.affine, atol=MOST_MM)


REAL = [
    "brain-ms-ljubljana/long_patient03_study2_T1W_thick3mm.nii.gz",
    "brain-pyradiomics/brain1_image.nrrd",
    "ct-totalsegmentator/aorta_ct_cropped.nii.gz",
    "head-clinical-thick/donor1_T2w_6.5mm.nii.gz",
    "head-t1-ixi-2mm/IXI012-HH-1211_T1.nii.gz",
    "spine-sct/t2.nii.gz",
    "spine-sct/t2s_uncropped.nii.gz",
]


@pytest.mark.parametrize("name", REAL)
def test_real_files_lie_where_itk_sees_them(name: str, shared: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    path = shared / "data" / name
    volume, image = read_volume(path), sitk.ReadImage(str(path))
    np.testing.assert_allclose(volume.data[0], sitk.GetArrayFromImage(image).T, rtol=1e-6)
    for index in itertools.product(*((0, n - 1) for n in volume.geometry.shape)):
        x, y, z = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose((-x, -y, z), volume.geometry.to_world(np.array(index)), atol=1e-3)


def test_a_real_mgz_lies_where_nibabel_sees_it(shared: Path) -> None:
    path = shared / "data" / "head-t1-mne-misc" / "ecog_brain.mgz"
    volume, image = read_volume(path), nibabel.load(path)
    np.testing.assert_allclose(volume.geometry.affine, image.affine, atol=1e-4)
    assert np.array_equal(volume.data[0], np.asarray(image.dataobj))


@pytest.mark.parametrize(
    "name", ["ct-totalsegmentator/aorta_ct_cropped.nii.gz", "ct-fnndsc/andrei_torso_ct_2mm.nii.gz"]
)
def test_a_real_ct_is_known_by_its_air(name: str, shared: Path) -> None:
    assert read_volume(shared / "data" / name).modality is Modality.CT


@pytest.mark.parametrize("name", ["head-clinical-thick/donor1_T2w_6.5mm.nii.gz", "spine-sct/t2.nii.gz"])
def test_a_real_mr_is_not_taken_for_a_ct(name: str, shared: Path) -> None:
    assert read_volume(shared / "data" / name).modality is Modality.MR


def test_a_label_map_says_so_in_nifti(tmp_path: Path) -> None:
    labels = Volume(np.ones((1, 4, 5, 6), np.int16), GRIDS["RAS"], Modality.LABEL)
    path = write_volume(labels, tmp_path / "labels.nii.gz", dtype="uint8")
    assert read_volume(path).modality is Modality.LABEL


@pytest.mark.parametrize(
    ("fill", "words"),
    [(np.nan, "every voxel is NaN"), (7.0, r"constant \(every voxel is 7\)")],
)
def test_nothing_to_restore_is_said(fill: float, words: str) -> None:
    volume = scan(GRIDS["RAS"], frames=2)
    check_restorable(volume, "scan.nii")
    volume.data[1] = fill
    with pytest.raises(InputError, match=f"frame 2 of 2, .*{words}"):
        check_restorable(volume, "scan.nii")


def test_a_single_nan_is_counted() -> None:
    volume = scan(GRIDS["RAS"])
    volume.data[0, 0, 0, 0] = np.inf
    with pytest.raises(InputError, match="1 of its 120 voxels, which is NaN or infinite; replace it first"):
        check_restorable(volume, "scan.nii")
