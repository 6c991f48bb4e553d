"""What a user says was done to a scan: read with care, and undone together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from medidiff.config import load_config, parse_config
from medidiff.errors import ConfigError, GeometryError, InputError
from medidiff.geometry import Geometry
from medidiff.io import read_volume, write_volume
from medidiff.operators import BlurOperator, Likelihood, MaskOperator, SliceOperator, SliceProfile
from medidiff.operators.base import toward_data
from medidiff.operators.motion import MovedSlices
from medidiff.operators.task import Task
from medidiff.reconstruct import ReconstructOptions, reconstruct
from medidiff.restoration.chain import Chain, Turned, merged
from medidiff.restoration.jobs.composed import as_learned
from medidiff.restoration.operator_config import OperatorConfig, build, read_motion, read_profile
from medidiff.volume import Volume
from tests.operators.registry import dense, random_batch
from tests.tiny_model import write_tiny_model

SCAN = Geometry(np.diag([1.0, 1.0, 4.0, 1.0]), (16, 18, 6))


def config(*steps: str, extra: str = "") -> OperatorConfig:
    return parse_config("kind: operator\nsteps:\n" + "".join(f"  - {s}\n" for s in steps) + extra, OperatorConfig)


def built(*steps: str, extra: str = "", folder: Path = Path()) -> tuple[Geometry, list, list[str]]:
    return build(config(*steps, extra=extra), SCAN, folder)


@pytest.fixture
def head(mni: Volume) -> Volume:
    """A piece of a real head at 1 mm."""
    box = (slice(None), slice(60, 92), slice(80, 112), slice(60, 92))
    return Volume(np.array(mni.data[box]), Geometry(mni.geometry.cropped((60, 80, 60), (32, 32, 32)).affine, (32,) * 3))


# --- the file ---------------------------------------------------------------------------------------------------------


def test_steps_are_built_from_the_head_to_the_scan() -> None:
    grid, operators, words = built("{kind: blur, fwhm_mm: 2, axes: [R]}", "{kind: slices}")
    assert [type(o) for o in operators] == [BlurOperator, SliceOperator]
    assert grid.shape == (16, 18, 24)
    assert operators[0].out_shape == operators[1].in_shape == (1, 16, 18, 24)
    assert operators[1].out_shape == (1, 16, 18, 6)
    assert operators[0].fwhm == {0: 2.0}
    assert words[1] == "6 slices along S, 4 mm apart, 4 mm thick (box profile)."


def test_two_slicings_make_two_axes_fine() -> None:
    extra = "spacing_mm: 0.5\n"
    grid, operators, _ = built("{kind: slices, axis: S, thickness_mm: 5}", "{kind: slices, axis: R}", extra=extra)
    assert grid.shape == (32, 18, 48)
    assert [o.axis for o in operators] == [2, 0]
    assert operators[0].profile == SliceProfile(8, 10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: operator\nsteps:\n  - {kind: slices, thicknes_mm: 4}\n", r"x.yaml:3: steps\[0\].thicknes_mm: no such"),
        ("kind: operator\nsteps:\n  - {kind: slices}\n  - {kind: smear}\n", r"x.yaml:4: steps\[1\]: .*'smear'"),
        (
            "kind: operator\nsteps:\n  - kind: blur\n    fwhm_mm: -1\n",
            r"x.yaml:4: steps\[0\].fwhm_mm: .*greater than 0, got -1$",  # and no second line: the list is not empty
        ),
        ("kind: operator\nsteps: []\n", r"x.yaml:2: steps: .*at least 1"),
        ("kind: operator\nsteps:\n  - {kind: mask, file: m.nii}\n  - {kind: slices}\n", "a mask .* comes last"),
        ("kind: operator\nsteps:\n  - {kind: slices}\n  - {kind: slices}\n", "axes of their own"),
    ],
)
def test_a_mistake_is_told_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(text, OperatorConfig, source="x.yaml")


def test_a_measured_profile_is_read_from_a_table(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("offset_mm,weight\n-4,0\n0,2\n4,0\n")
    assert read_profile(tmp_path / "p.csv").fwhm == pytest.approx(4, rel=1e-3)
    _, (operator,), _ = built("{kind: slices, profile_file: p.csv}", folder=tmp_path)
    assert operator.profile.kind == "measured"
    assert operator.profile.thickness == pytest.approx(4, rel=1e-3)


@pytest.mark.parametrize("text", ["", "a,b\nc,d\n", "1,2,3\n", "-1,0\n0,nan\n1,0\n", "1,1\n0,1\n2,1\n", "\x00"])
def test_what_is_no_profile_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(InputError, match=r"p\.csv"):
        read_profile(tmp_path / "p.csv")


def test_motion_is_read_in_degrees_and_needs_a_line_a_slice(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("180,0,0,1,2,3\n" * 6)
    assert read_motion(tmp_path / "m.csv", 6)[0].tolist() == [pytest.approx(np.pi), 0, 0, 1, 2, 3]
    _, (operator,), _ = built("{kind: motion, file: m.csv}", folder=tmp_path)
    assert isinstance(operator, MovedSlices)
    with pytest.raises(InputError, match=r"m\.csv: expected six numbers for each of 5 slices, found 6"):
        read_motion(tmp_path / "m.csv", 5)


def test_an_absurd_grid_is_refused() -> None:
    with pytest.raises(GeometryError, match="spacing_mm"):
        built("{kind: slices}", extra="spacing_mm: 1e-7\n")


# --- the chain --------------------------------------------------------------------------------------------------------


def lost_slice() -> Chain:
    return Chain(
        [SliceOperator((1, 6, 6, 16), 2, SliceProfile(2, 2)), MaskOperator((1, 6, 6, 8), torch.arange(8) != 3)]
    )


def test_the_classical_answer_agrees_with_the_data_and_spans_what_is_lost() -> None:
    chain = lost_slice()
    x = torch.linspace(0, 1, 16).expand(1, 1, 6, 6, 16) + 1
    y = chain.forward(x)
    found = chain.reference(y)
    assert float(Likelihood(chain, y).misfit(found)) < 2e-3
    assert float((found - x).abs().max()) < 0.06


def test_what_is_lost_is_known_to_nobody() -> None:
    known = lost_slice().known(torch.ones(1, 1, 6, 6, 8))[0, 0, 0, 0]
    assert known[6:8].tolist() == [0, 0]
    assert (known[:6] > 0).all()
    assert (known[8:] > 0).all()


def test_the_network_is_told_the_worst_of_the_steps() -> None:
    tasks = [Task(factor=4, thickness=0.8, gaussian=1, noise=0.1), Task(missing=0.3, noise=0.1)]
    assert merged(tasks) == Task(factor=4, thickness=0.8, gaussian=1, noise=0.1, missing=0.3)


def test_toward_data_is_the_closed_form() -> None:
    operator = BlurOperator((1, 5, 4, 3), {0: 1.5})
    matrix = dense(operator)
    x0, y = random_batch((1, 5, 4, 3), 1, 1), random_batch((1, 5, 4, 3), 2, 1)
    normal = matrix.T @ matrix + 0.05 * torch.eye(60, dtype=torch.float64)
    expected = torch.linalg.solve(normal, matrix.T @ y.flatten() + 0.05 * x0.flatten())
    found = toward_data(operator, x0, y, 0.05, steps=60).flatten()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_a_network_sees_slices_along_its_last_axis() -> None:
    chain = Chain([SliceOperator((1, 16, 6, 5), 0, SliceProfile(4, 4))])
    turned = as_learned(chain)
    assert isinstance(turned, Turned)
    assert turned.in_shape == (1, 6, 5, 16)
    x = random_batch((1, 16, 6, 5), 3)
    torch.testing.assert_close(turned.forward(x.movedim(2, -1)), chain.forward(x))
    torch.testing.assert_close(turned.back(x.movedim(2, -1)), x)
    torch.testing.assert_close(turned.reference(chain.forward(x)), chain.reference(chain.forward(x)).movedim(2, -1))
    assert turned.task() == Task(factor=4)


# --- from file to file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["slices", "blurred", "lost"])
def test_a_scan_is_restored_as_its_file_says(tmp_path: Path, head: Volume, name: str) -> None:
    slicing = SliceOperator((1, 32, 32, 32), 2, SliceProfile(4, 4))
    truth = torch.from_numpy(head.data)[None]
    text = "kind: operator\nsteps:\n"
    if name == "blurred":
        truth_after = BlurOperator((1, 32, 32, 32), {0: 2.0, 1: 2.0}).forward(truth)
        text += "  - {kind: blur, fwhm_mm: 2.0, axes: [R, A]}\n"
    else:
        truth_after = truth
    text += "  - {kind: slices}\n"
    y = slicing.forward(truth_after)
    coarse = head.geometry.resampled(2, 8, 4.0)
    if name == "lost":
        text += "  - {kind: mask, file: lost.nii.gz}\n"
        lost = np.zeros((1, *coarse.shape), np.uint8)
        lost[..., 4] = 1
        write_volume(Volume(lost, coarse), tmp_path / "lost.nii.gz")
        y[..., 4] = 1.5 * y.max()  # spoiled, not empty
    write_volume(Volume(y[0].numpy(), coarse), tmp_path / "scan.nii.gz")
    (tmp_path / "op.yaml").write_text(text)
    options = ReconstructOptions(operator=tmp_path / "op.yaml", fast=True)
    result = reconstruct([tmp_path / "scan.nii.gz"], tmp_path / "out.nii.gz", options)
    found = read_volume(result.output)
    assert found.geometry.shape == (32, 32, 32)
    assert found.geometry.distance(head.geometry) < 1e-3
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["kind"] == "composed"
    assert [o["kind"] for o in record["operators"]][-1] == {"lost": "mask"}.get(name, "slices")
    assert record["data_consistency_nrmse"] < 0.01
    inner = (0, slice(4, -4), slice(4, -4), slice(4, -4))
    error = np.sqrt(np.mean((found.data[inner] - head.data[inner]) ** 2))
    plain = slicing.reference(slicing.forward(truth_after))[0].numpy()
    # Undoing the blur as well is better than undoing the slices alone; a lost slice costs something.
    limit = {"slices": 1.01, "blurred": 0.93, "lost": 1.6}[name]
    assert error < limit * np.sqrt(np.mean((plain[inner] - head.data[inner]) ** 2))


def test_a_network_takes_part_and_a_seed_repeats_its_samples(tmp_path: Path, head: Volume) -> None:
    coarse = head.geometry.resampled(2, 8, 4.0)
    y = SliceOperator((1, 32, 32, 32), 2, SliceProfile(4, 4)).forward(torch.from_numpy(head.data)[None])
    write_volume(Volume(y[0].numpy(), coarse), tmp_path / "scan.nii.gz")
    (tmp_path / "op.yaml").write_text("kind: operator\nsteps: [{kind: slices}]\nnoise_std: 20\n")
    model = str(write_tiny_model(tmp_path / "tiny.safetensors"))
    options = ReconstructOptions(operator=tmp_path / "op.yaml", model=model, samples=1, steps=2, seed=3)
    one, two = (reconstruct([tmp_path / "scan.nii.gz"], tmp_path / f"{n}.nii.gz", options) for n in "ab")
    first, again = (read_volume(result.samples[0]).data for result in (one, two))
    assert np.array_equal(first, again)
    assert one.record["rule"] == "proximal"
    assert not np.array_equal(read_volume(one.output).data, one.volumes["baseline"].data)


def test_an_operator_says_everything(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--operator says everything"):
        ReconstructOptions(operator=tmp_path / "op.yaml", spacing=1.0)
    with pytest.raises(ConfigError, match="--profile is box"):
        ReconstructOptions(profile="boxy")


def test_a_mask_of_another_grid_is_refused(tmp_path: Path, head: Volume) -> None:
    write_volume(head, tmp_path / "scan.nii.gz")
    write_volume(Volume(np.zeros((1, 4, 4, 4), np.uint8), Geometry(np.eye(4), (4, 4, 4))), tmp_path / "m.nii.gz")
    (tmp_path / "op.yaml").write_text("kind: operator\nsteps: [{kind: mask, file: m.nii.gz}]\n")
    options = ReconstructOptions(operator=tmp_path / "op.yaml", fast=True)
    with pytest.raises(GeometryError, match=r"m\.nii\.gz: the mask has"):
        reconstruct([tmp_path / "scan.nii.gz"], tmp_path / "out.nii.gz", options)


def test_a_measured_profile_serves_the_ordinary_way_too(tmp_path: Path, head: Volume) -> None:
    table = "\n".join(f"{o:g},{np.exp(-0.5 * (o / 1.7) ** 2):g}" for o in np.linspace(-5, 5, 41))
    (tmp_path / "profile.csv").write_text(table)
    coarse = head.geometry.resampled(2, 8, 4.0)
    y = SliceOperator((1, 32, 32, 32), 2, SliceProfile(4, 4, "gaussian")).forward(torch.from_numpy(head.data)[None])
    write_volume(Volume(y[0].numpy(), coarse), tmp_path / "scan.nii.gz")
    options = ReconstructOptions(profile=str(tmp_path / "profile.csv"), fast=True)
    record = reconstruct([tmp_path / "scan.nii.gz"], tmp_path / "out.nii.gz", options).record
    assert record["operators"][0]["profile"] == "measured"
    assert record["operators"][0]["thickness_voxels"] == pytest.approx(4.0, rel=0.02)
    assert record["data_consistency_nrmse"] < 0.01


@pytest.mark.parametrize("name", ["blurred-slices", "lost-slices", "measured-profile", "moving-slices"])
def test_the_example_files_are_such_files(repository: Path, name: str) -> None:
    assert load_config(repository / "configs" / f"operator-{name}.yaml", OperatorConfig).steps
