"""Who may be seen in an image: rules that let test objects pass and no head; and brains that deserve doubt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from medidiff.geometry import Geometry
from medidiff.io import read_volume
from medidiff.privacy.brain import checked, find_brain
from medidiff.privacy.facerule import TOO_SMALL, says_head, why_no_face, why_nobody, why_too_little
from medidiff.privacy.policy import CannotClean
from medidiff.volume import Modality, Volume
from tests.privacy.test_nifti_sidecar_faces import phantom


def grid(*extent: float, step: float = 4.0) -> Geometry:
    shape = tuple(max(1, round(size / step)) for size in extent)
    return Geometry(np.diag([step, step, step, 1.0]), shape)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("extent", "seen"),
    [((180, 200, 200), True), ((4, 200, 200), True), ((180, 200, 20), False), ((180, 20, 200), False),
     ((40, 76, 76), False)],
)  # fmt: skip
def test_a_face_needs_depth_and_height_but_no_width(extent: tuple[float, ...], seen: bool) -> None:
    assert (why_no_face(grid(*extent), Modality.MR, "") == "") is seen
    if not seen:
        assert why_no_face(grid(*extent), Modality.MR, "") == TOO_SMALL


@pytest.mark.parametrize(("part", "head"), [("C SPINE", True), ("HEADNECK", True), ("KNEE", False), ("", False)])
def test_body_parts(part: str, head: bool) -> None:
    assert says_head(part) is head


def test_noise_and_bottles_show_nobody_and_heads_do(shared: Path) -> None:
    rng = np.random.default_rng(0)
    noise = Volume(rng.integers(0, 255, (1, 3, 128, 128)).astype(np.float32), Geometry(np.eye(4), (3, 128, 128)))
    assert "noise" in why_nobody(noise)
    places = np.moveaxis(np.indices((60, 60, 60)), 0, -1) - 30
    bottle = (np.hypot(places[..., 0], places[..., 1]) < 20) & (np.abs(places[..., 2]) < 25)
    signal = np.where(bottle, 500 * (1 + 0.01 * places[..., 0]), 0) + rng.normal(0, 3, bottle.shape)
    assert "test object" in why_nobody(Volume(signal[None], Geometry(np.diag([3.0, 3, 3, 1]), (60, 60, 60))))
    for name in ("head-t1-ixi-2mm/IXI012-HH-1211_T1.nii.gz", "head-clinical-thick/donor1_T2w_6.5mm.nii.gz"):
        head = read_volume(shared / "data" / name)
        assert why_nobody(head) == ""
        blurred = Volume(head.data + rng.normal(0, 2 * head.data.std(), head.data.shape), head.geometry, head.modality)
        assert why_nobody(blurred) == ""  # a head in noise is a head


def test_a_ct_of_bones_alone_shows_nobody_and_one_of_a_head_does() -> None:
    head, _ = phantom(Modality.CT)
    dry = head.data.copy()
    dry[(dry > -500) & (dry < 500)] = -1000
    assert "test object" in why_nobody(Volume(dry, head.geometry, Modality.CT))
    assert why_nobody(head) == ""
    assert why_nobody(Volume(dry + 1000, head.geometry, Modality.CT)) == ""  # no Hounsfield units: nothing to go by


def test_little_tissue_in_coarse_voxels_is_no_face_but_in_a_slab_it_may_be() -> None:
    assert why_too_little(20, grid(180, 200, 200, step=3.5))
    assert not why_too_little(20, grid(180, 200, 200, step=2.0))
    assert not why_too_little(120, grid(180, 200, 200, step=3.5))
    assert not why_too_little(20, grid(7, 200, 200, step=3.5))


def test_the_brain_of_a_ct_is_found_where_the_base_of_the_skull_is_open() -> None:
    head, brain = phantom(Modality.CT)
    places = head.geometry.to_world(np.moveaxis(np.indices(head.geometry.shape), 0, -1))
    data = head.data.copy()
    orbit = (places[..., 2] < 5) & (np.abs(places[..., 0]) > 15) & (np.abs(places[..., 0]) < 45) & (places[..., 1] > 50)
    data[0][orbit & (data[0] > 500)] = 40.0
    upright = Volume(data, head.geometry, Modality.CT).reoriented()
    truth = Volume(brain[None], head.geometry, Modality.LABEL).reoriented().data[0]
    found = find_brain(upright).mask
    assert (found & truth).sum() > 0.9 * truth.sum()
    assert (found & ~ndimage.binary_dilation(truth, iterations=3)).sum() < 0.03 * truth.sum()


@pytest.mark.parametrize("wrong", ["huge", "long", "pieces", "arms", "small slab"])
def test_what_is_no_brain_is_doubted(wrong: str) -> None:
    geometry = grid(240, 240, 240)
    mask = np.zeros(geometry.shape, dtype=bool)
    mask[16:44, 12:50, 16:44] = True
    assert checked(mask, geometry, "given").ml > 1500
    if wrong == "huge":
        mask[10:50, 5:55, 10:50] = True
    elif wrong == "long":
        mask[20:40, 20:40, :] = True
        mask[:20] = mask[40:] = False
    elif wrong == "pieces":
        mask[28:32] = False
    elif wrong == "arms":
        mask[:] = False
        mask[20:40, 20:40, 20:40] = True
        mask[29, 10:60, 29] = mask[10:50, 29, 29] = mask[29, 29, 10:54] = True
    else:
        geometry = grid(8, 240, 240)
        mask = np.zeros(geometry.shape, dtype=bool)
        mask[:, 20:30, 20:30] = True
    with pytest.raises(CannotClean, match="face-unverified"):
        checked(mask, geometry, "given")
