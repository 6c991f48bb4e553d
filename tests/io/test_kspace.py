"""Raw data through the door: what an independent writer wrote comes out on its grid; what cannot be used says why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("h5py", reason="raw k-space needs the extra kspace")
pytest.importorskip("ismrmrd", reason="test files are written by the ismrmrd package")

from medidiff.errors import BudgetError, InputError, MedidiffError
from medidiff.io.kspace import is_kspace, probe_kspace, read_kspace
from medidiff.io.kspace.reduce import to_image
from medidiff.volume import Volume
from tests.io.kspace_files import Array, Layout, to_kspace, write_fastmri, write_ismrmrd

SHAPE = (24, 32, 3)


@pytest.fixture(scope="module")
def coils(mni: Volume) -> Array:
    """Two coils' images of coarse axial slices, complex, shape (2, 24, 32, 3); odd and even sides."""
    head = mni.data[0, 2:194:8, 2:226:7, 80:104:8]
    i = np.linspace(-1, 1, SHAPE[0])[:, None, None]
    return np.stack([head * np.exp(i - 1 + 1j * i), head * np.exp(-i - 1 - 2j)]).astype(np.complex64)


def image(raw_data: Array, axes: tuple[int, ...] = (2, 3)) -> Array:
    return to_image(raw_data, axes)[0]


@pytest.mark.parametrize("oversampling", [1, 2])
@pytest.mark.parametrize("volume", [False, True])
def test_profiles_come_back_as_the_image_they_were_made_of(
    tmp_path: Path, coils: Array, oversampling: int, volume: bool
) -> None:
    write_ismrmrd(tmp_path / "scan", coils, Layout(oversampling=oversampling, volume=volume))
    assert is_kspace(tmp_path / "scan")
    raw = read_kspace(tmp_path / "scan")
    assert (raw.info.format, raw.info.coils, raw.info.encoded) == ("ISMRMRD", 2, (0, 1, 2) if volume else (0, 1))
    assert raw.mask.all()
    np.testing.assert_allclose(
        image(raw.data, (2, 3, 4) if volume else (2, 3)), coils, atol=1e-4 * float(np.abs(coils).max())
    )


def test_the_header_and_the_samples_agree_on_the_grid(tmp_path: Path, coils: Array) -> None:
    write_ismrmrd(tmp_path / "scan.h5", coils, Layout(oversampling=2, spacing=(0.9, 1.1, 4.0), gap=1.25))
    info, raw = probe_kspace(tmp_path / "scan.h5"), read_kspace(tmp_path / "scan.h5")
    assert info.geometry.shape == SHAPE == raw.data.shape[2:]
    np.testing.assert_allclose(info.geometry.spacing, (0.9, 1.1, 5.0), rtol=1e-5)
    assert raw.info.geometry.distance(info.geometry) < 1e-6
    assert any("oversampling is cut away: 48 to 24" in words for words in info.words)


def test_voxels_lie_where_the_profiles_say_in_lps(tmp_path: Path, coils: Array) -> None:
    """Sagittal slices: read-out to the feet, phase to the back, slices to the left."""
    directions = ((0.0, 0.0, -1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
    write_ismrmrd(tmp_path / "scan.h5", coils, Layout(directions=directions, spacing=(1.0, 1.5, 4.0)))
    geometry = probe_kspace(tmp_path / "scan.h5").geometry
    assert geometry.orientation == "IPL"
    # The centre of the first slice is where the profile says, (10, -20, 30) in LPS.
    np.testing.assert_allclose(geometry.to_world(np.array([12, 16, 0])), (-10, 20, 30), atol=1e-4)
    np.testing.assert_allclose(geometry.to_world(np.array([12, 16, 2])), (-18, 20, 30), atol=1e-4)


def test_directions_that_are_missing_are_assumed_and_said(tmp_path: Path, coils: Array) -> None:
    write_ismrmrd(tmp_path / "scan.h5", coils, Layout(directions=((0.0, 0.0, 0.0),) * 3))
    info = probe_kspace(tmp_path / "scan.h5")
    assert info.geometry.orientation == "PLS"
    assert any("assumed" in warning for warning in info.warnings)


def test_lines_that_were_not_taken_are_known(tmp_path: Path, coils: Array) -> None:
    lines = (0, 3, 14, 15, 16, 17, 20, 31)
    samples = write_ismrmrd(tmp_path / "scan.h5", coils, Layout(lines=lines, oversampling=2))
    raw = read_kspace(tmp_path / "scan.h5")
    np.testing.assert_array_equal(np.flatnonzero(raw.mask[0, 0, :, 0]), lines)
    assert not raw.data[~np.broadcast_to(raw.mask[:, None], raw.data.shape)].any()
    # Parseval: half of the oversampled read-out holds the whole object.
    taken = samples[:, :, list(lines)]
    assert np.linalg.norm(raw.data) == pytest.approx(np.linalg.norm(taken), rel=1e-4)


def test_a_centre_that_is_not_in_the_middle_is_half_fourier(tmp_path: Path, coils: Array) -> None:
    """Lines are counted from 0 where the acquisition begins: the limits say which one is the centre."""
    write_ismrmrd(tmp_path / "scan.h5", coils, Layout(lines=tuple(range(10, 32)), centre=6))
    raw = read_kspace(tmp_path / "scan.h5")
    np.testing.assert_array_equal(np.flatnonzero(raw.mask[0, 0, :, 0]), np.arange(10, 32))
    full = to_kspace(coils, (1, 2))
    np.testing.assert_allclose(raw.data[0][:, :, 10:], full[:, :, 10:], atol=1e-4 * float(np.abs(full).max()))


def test_a_partial_echo_keeps_its_oversampling_until_the_end(tmp_path: Path, coils: Array) -> None:
    write_ismrmrd(tmp_path / "scan.h5", coils, Layout(partial_echo=10, oversampling=2))
    raw = read_kspace(tmp_path / "scan.h5")
    assert (raw.info.full.shape[0], raw.info.geometry.shape) == (48, SHAPE)
    np.testing.assert_array_equal(raw.mask[0].all(axis=(1, 2)), np.arange(48) >= 10)
    assert not raw.mask[0, :10].any()
    assert raw.info.full.cropped((12, 0, 0), SHAPE).distance(raw.info.geometry) < 1e-6


def test_averages_are_averaged_and_calibration_stays_apart(tmp_path: Path, coils: Array) -> None:
    layout = Layout(lines=tuple(range(0, 32, 2)), separate=tuple(range(10, 22)), averages=3)
    write_ismrmrd(tmp_path / "scan.h5", coils, layout)
    raw = read_kspace(tmp_path / "scan.h5")
    full = to_kspace(coils, (1, 2))
    np.testing.assert_allclose(raw.data[0][:, :, ::2], full[:, :, ::2], atol=1e-4 * float(np.abs(full).max()))
    assert not raw.mask[0, :, 1::2].any()
    assert raw.calibration is not None
    np.testing.assert_allclose(raw.calibration[:, :, 10:22], full[:, :, 10:22], atol=1e-4 * float(np.abs(full).max()))
    assert not raw.calibration[:, :, :10].any()


def test_the_noise_scan_gives_the_covariance_of_the_coils(tmp_path: Path, coils: Array) -> None:
    rng = np.random.default_rng(0)
    mixing = np.array([[2.0, 0.0], [1.0 + 1.0j, 1.0]])
    white = rng.normal(size=(20, 2, 64, 2)) @ np.array([1, 1j]) / np.sqrt(2)
    write_ismrmrd(tmp_path / "scan.h5", coils, Layout(noise=np.einsum("ab,nbs->nas", mixing, white)))
    raw = read_kspace(tmp_path / "scan.h5")
    assert raw.noise_covariance is not None
    np.testing.assert_allclose(raw.noise_covariance, mixing @ mixing.conj().T, atol=0.4)
    np.testing.assert_allclose(image(raw.data), coils, atol=1e-4 * float(np.abs(coils).max()))


@pytest.mark.parametrize(
    ("layout", "reason"),
    [
        (Layout(trajectory="radial"), "not Cartesian"),
        (Layout(trajectory="epi"), "echo-planar"),
        (Layout(flags=(22,)), "echo-planar"),
        (Layout(flags=(19,)), "no image data"),
        (Layout(flags=(24,)), "no image data"),
        (Layout(astray=9), "contradict"),
    ],
)
def test_what_cannot_be_reconstructed_is_refused_with_its_reason(
    tmp_path: Path, coils: Array, layout: Layout, reason: str
) -> None:
    write_ismrmrd(tmp_path / "scan.h5", coils, layout)
    for look in (probe_kspace, read_kspace):
        with pytest.raises(InputError, match=reason):
            look(tmp_path / "scan.h5")


def test_no_identifier_leaves_the_header(tmp_path: Path, coils: Array) -> None:
    write_ismrmrd(tmp_path / "scan.h5", coils)
    info = probe_kspace(tmp_path / "scan.h5")
    assert "Secret" not in repr(info)


@pytest.mark.parametrize("count", [1, 2])
def test_fastmri_files_come_back_as_the_image_they_were_made_of(tmp_path: Path, coils: Array, count: int) -> None:
    write_fastmri(tmp_path / "file1.h5", coils[:count])
    raw = read_kspace(tmp_path / "file1.h5")
    assert (raw.info.format, raw.info.coils) == ("fastMRI", count)
    np.testing.assert_allclose(image(raw.data), coils[:count], atol=1e-4 * float(np.abs(coils).max()))
    np.testing.assert_allclose(raw.info.geometry.spacing, (1, 1, 4))
    assert raw.info.geometry.distance(probe_kspace(tmp_path / "file1.h5").geometry) < 1e-6


def test_a_mask_beside_full_k_space_hides_what_it_leaves_out(tmp_path: Path, coils: Array) -> None:
    mask = np.arange(32) % 4 == 0
    write_fastmri(tmp_path / "file1.h5", coils, mask=mask, header=False, oversampling=1)
    raw = read_kspace(tmp_path / "file1.h5")
    np.testing.assert_array_equal(raw.mask[0, 0, :, 0], mask)
    assert not raw.data[:, :, :, ~mask].any()
    assert any("1 mm" in warning for warning in raw.info.warnings)


@pytest.mark.parametrize("corner", [False, True])
@pytest.mark.parametrize("axes", [(1, 2), (1, 2, 3)])
def test_arrays_are_taken_with_frequency_zero_in_the_middle_or_first(
    tmp_path: Path, mni: Volume, corner: bool, axes: tuple[int, ...]
) -> None:
    head = mni.data[0, 2:194:4, 2:226:4, 20:180:8].astype(np.complex64)[None]
    samples = np.fft.fftn(head, axes=axes, norm="ortho") if corner else to_kspace(head, axes)
    np.save(tmp_path / "scan.npy", samples.astype(np.complex64))
    raw = read_kspace(tmp_path / "scan.npy")
    assert raw.info.encoded == tuple(a - 1 for a in axes)
    found = to_image(raw.data, tuple(a + 1 for a in axes))[0]
    np.testing.assert_allclose(found, head, atol=1e-4 * float(np.abs(head).max()))


def test_the_real_eight_coil_slice(shared: Path) -> None:
    raw = read_kspace(shared / "data" / "kspace-sigpy" / "cartesian_ksp_8ch.npy")
    assert raw.data.shape == (1, 8, 230, 180, 1)
    assert raw.info.encoded == (0, 1)
    assert raw.mask.mean() == pytest.approx(0.124, abs=0.001)
    assert raw.info.geometry.orientation == "PLS"


def test_a_budget_is_kept(tmp_path: Path, coils: Array) -> None:
    np.save(tmp_path / "a.npy", to_kspace(coils, (1, 2)))
    write_ismrmrd(tmp_path / "b.h5", coils)
    write_fastmri(tmp_path / "c.h5", coils)
    for name in ("a.npy", "b.h5", "c.h5"):
        with pytest.raises(BudgetError):
            read_kspace(tmp_path / name, budget=10_000)


def test_other_content_is_no_k_space(tmp_path: Path, mni_path: Path) -> None:
    import h5py

    np.save(tmp_path / "real.npy", np.ones((4, 16, 16)))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = np.arange(4)
    (tmp_path / "empty.h5").write_bytes(b"")
    for path in (tmp_path / "real.npy", tmp_path / "other.h5", mni_path, tmp_path):
        assert not is_kspace(path)
    with pytest.raises(InputError):
        is_kspace(tmp_path / "empty.h5")
    with pytest.raises(InputError, match="no raw k-space"):
        read_kspace(tmp_path / "other.h5")


def test_data_outside_the_file_are_not_followed(tmp_path: Path, coils: Array) -> None:
    """A link, an external file or a virtual data set could name any file that the user can read."""
    import h5py

    write_fastmri(tmp_path / "other.h5", coils)
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(8 * 2 * 16 * 16))
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["kspace"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/kspace")
    with h5py.File(tmp_path / "external.h5", "w") as file:
        file.create_dataset("kspace", (2, 16, 16), "c8", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout((3, 2, 48, 32), "c8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "kspace", (3, 2, 48, 32))
        file.create_virtual_dataset("kspace", layout)
    for name in ("link.h5", "external.h5", "virtual.h5"):
        with pytest.raises(InputError, match=r"somewhere else|other files"):
            read_kspace(tmp_path / name)


def test_a_promise_that_the_file_cannot_keep_is_refused_before_memory_is_asked_for(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "bomb.h5", "w") as file:
        file.create_dataset("kspace", (64, 64, 4096, 4096), "c8", chunks=(1, 1, 64, 64))
    with pytest.raises(InputError, match="promises"):
        read_kspace(tmp_path / "bomb.h5")
    header = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<c8', 'fortran_order': False, 'shape': (99, 9999, 9999), }".ljust(
        117
    )
    (tmp_path / "bomb.npy").write_bytes(header + b"\n" + bytes(64))
    with pytest.raises(InputError):
        read_kspace(tmp_path / "bomb.npy")


def test_entities_in_a_header_are_refused(tmp_path: Path, coils: Array) -> None:
    import h5py

    write_fastmri(tmp_path / "scan.h5", coils)
    with h5py.File(tmp_path / "scan.h5", "r+") as file:
        text = file["ismrmrd_header"][()].decode()
        del file["ismrmrd_header"]
        file["ismrmrd_header"] = text.replace("?>", '?><!DOCTYPE a [<!ENTITY b "c">]>', 1)
    with pytest.raises(InputError, match="document type"):
        probe_kspace(tmp_path / "scan.h5")


def _kinds(folder: Path, coils: Array) -> list[Path]:
    write_ismrmrd(folder / "a", coils[:, :, :, :1])
    write_fastmri(folder / "b", coils[:, :, :, :1], mask=np.ones(32))
    np.save(folder / "c.npy", to_kspace(coils, (1, 2)))
    return [folder / "a", folder / "b", folder / "c.npy"]


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_damaged_files_give_typed_errors_only(tmp_path: Path, coils: Array, kind: int) -> None:
    path = _kinds(tmp_path, coils)[kind]
    whole = path.read_bytes()
    rng = np.random.default_rng(kind)
    messages: list[str] = []
    for round_ in range(80):
        damaged = bytearray(whole)
        if round_ % 4 == 0:
            damaged = damaged[: int(rng.integers(1, len(whole)))]
        else:
            # Most of a file is samples; what steers a reader lies in the first kilobytes.
            for _ in range(int(rng.integers(1, 12))):
                reach = min(len(whole), 6000) if round_ % 2 else len(whole)
                damaged[int(rng.integers(reach))] = int(rng.integers(256))
        target = tmp_path / "damaged"
        target.write_bytes(bytes(damaged))
        try:
            raw = read_kspace(target, budget=1 << 26)
        except MedidiffError as error:
            messages.append(str(error))
            continue
        assert np.isfinite(raw.data).all()
    assert messages
    assert not any("Secret" in message for message in messages)
