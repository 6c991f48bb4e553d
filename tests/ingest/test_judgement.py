"""The quality gate, duplicates and faces: planted faults are found, sound scans pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from medidiff.geometry import Geometry
from medidiff.ingestion.candidate import SetApart
from medidiff.ingestion.duplicates import SAME_TEXTURE, Fingerprints, fingerprint, same_texture, voxel_hash
from medidiff.ingestion.faces import without_face
from medidiff.ingestion.quality import QualityGate, assess, outliers
from medidiff.io import read_volume
from medidiff.volume import Modality, Volume
from tests.ingest.test_manifest import record

GATE = QualityGate()


@pytest.fixture(scope="module")
def head(mni: Volume) -> Volume:
    """A real head at 2 mm with a scanner's noise: the template itself has none."""
    thin = mni.data[:, ::2, ::2, ::2].astype(np.float32)
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 2.0, (2, *thin.shape))
    noisy = np.hypot(thin + noise[0], noise[1]).astype(np.float32)
    affine = mni.geometry.affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    return Volume(noisy, Geometry(affine, thin.shape[1:]), Modality.MR)


def reasons(volume: Volume, gate: QualityGate = GATE, body_part: str = "") -> str:
    return "; ".join(assess(volume, gate, body_part).reasons)


def changed(volume: Volume, data: np.ndarray) -> Volume:
    return Volume(np.ascontiguousarray(data, dtype=np.float32), volume.geometry, volume.modality)


def test_a_real_head_passes(head: Volume) -> None:
    found = assess(head, replace_gate(body_part="head"), "BRAIN")
    assert found.reasons == ()
    assert found.figures["snr"] > 10
    assert found.figures["ghosting"] < 0.05


def replace_gate(**changes: object) -> QualityGate:
    return GATE.model_copy(update=changes)


def test_planted_faults_are_named(head: Volume) -> None:
    rng = np.random.default_rng(0)
    x = head.data
    thin = Volume(x[..., :4].copy(), head.geometry.cropped((0, 0, 0), (*x.shape[1:3], 4)), Modality.MR)
    assert "too few slices: 4" in reasons(thin)
    bright = float(np.percentile(x, 90))
    assert "clipped" in reasons(changed(head, np.minimum(x, bright)))
    noisy = np.hypot(x + rng.normal(0, bright / 3, x.shape), rng.normal(0, bright / 3, x.shape))
    assert "noise far off" in reasons(changed(head, noisy))
    ghost = sum(0.22 * np.roll(x, shift, axis=2) for shift in (-40, -28, 28, 40)) + x
    assert "motion far off" in reasons(changed(head, ghost))
    assert "constant" in reasons(changed(head, np.full_like(x, 7)))
    broken = x.copy()
    broken[0, 5, 5, 5] = np.nan
    assert "not finite" in reasons(changed(head, broken))
    big = Volume(x, Geometry(head.geometry.affine @ np.diag([2.0, 2.0, 2.0, 1.0]), head.geometry.shape), Modality.MR)
    assert "wrong body part" in reasons(big, replace_gate(body_part="head"))
    assert "wrong body part" in reasons(head, replace_gate(body_part="head"), "KNEE")
    assert reasons(head, GATE, "KNEE") == ""
    labels = Volume((x > bright).astype(np.float32), head.geometry, Modality.LABEL)
    assert "label map" in reasons(labels)


def test_one_that_lies_far_off_its_kind_is_named_whatever_the_order() -> None:
    members = [
        replace(record(f"v{number}"), quality={"noise": 0.02 + 0.001 * (number % 4), "entropy_focus": 0.5})
        for number in range(12)
    ]
    odd = replace(record("odd"), quality={"noise": 0.3, "entropy_focus": 0.5})
    found = outliers([*members, odd], GATE)
    assert list(found) == ["odd"]
    assert "noise far off" in found["odd"][0]
    assert outliers([odd, *members[::-1]], GATE) == found
    assert outliers([*members[:6], odd], GATE) == {}, "too few to say what is usual"


def test_equal_voxels_have_one_hash_however_they_are_stored(head: Volume) -> None:
    turned = Volume(head.data.transpose(0, 3, 1, 2)[:, ::-1].copy(), _turned(head.geometry), head.modality)
    assert turned.geometry.orientation != head.geometry.orientation
    assert voxel_hash(turned) == voxel_hash(head)
    other = head.data.copy()
    other[0, 40, 40, 40] += 1
    assert voxel_hash(changed(head, other)) != voxel_hash(head)


def _turned(geometry: Geometry) -> Geometry:
    i, j, k = geometry.shape
    matrix = np.zeros((4, 4))
    matrix[2, 0], matrix[2, 3] = -1, k - 1
    matrix[0, 1] = matrix[1, 2] = matrix[3, 3] = 1
    return Geometry(geometry.affine @ matrix, (k, i, j))


def test_copies_share_their_texture_and_second_scans_do_not(head: Volume, mni: Volume) -> None:
    pictures = Fingerprints()
    pictures.add("first", fingerprint(head))
    cropped = Volume(
        head.data[:, 3:-2, 4:-4, 2:] * 1.7 + 3, head.geometry.cropped((3, 4, 2), _crop(head)), head.modality
    )
    shifted = Volume(head.data, Geometry(head.geometry.affine + _move(7.3), head.geometry.shape), head.modality)
    cut = head.data.copy()
    cut[:, :, -30:, :40] = 0
    for name, copy in {"cropped": cropped, "shifted": shifted, "defaced": changed(head, cut)}.items():
        assert pictures.candidates(fingerprint(copy)) == ["first"], name
        assert same_texture(copy, head) > SAME_TEXTURE, name
    rng = np.random.default_rng(4)
    thin = mni.data[:, ::2, ::2, ::2]
    again = np.hypot(thin + rng.normal(0, 2.0, thin.shape), rng.normal(0, 2.0, thin.shape))
    assert pictures.candidates(fingerprint(changed(head, again))) == ["first"], "it looks the same"
    assert same_texture(changed(head, again), head) < SAME_TEXTURE


def _crop(volume: Volume) -> tuple[int, int, int]:
    i, j, k = volume.geometry.shape
    return i - 5, j - 8, k - 2


def _move(distance: float) -> np.ndarray:
    matrix = np.zeros((4, 4))
    matrix[:3, 3] = distance
    return matrix


def test_two_people_are_not_duplicates(shared: Path) -> None:
    one, other = (read_volume(path) for path in sorted((shared / "data" / "head-t1-ixi-2mm").glob("*.nii.gz")))
    assert same_texture(one, other) < 0.3
    hippocampi = sorted((shared / "data" / "msd-hippocampus").rglob("hippocampus_*.nii.gz"))[:6]
    volumes = [read_volume(path) for path in hippocampi]
    assert max(same_texture(a, b) for a in volumes for b in volumes if a is not b) < 0.5


def test_where_no_face_can_be_nothing_is_done(head: Volume) -> None:
    slab = Volume(head.data[..., 20:30].copy(), head.geometry.cropped((0, 0, 20), (*head.geometry.shape[:2], 10)))
    for volume, part, stated in ((slab, "", "auto"), (head, "KNEE", "auto"), (head, "", "other")):
        same, record_ = without_face(volume, part, keep=False, stated=stated)
        assert same is volume
        assert record_["done"] == "nothing"
    kept, record_ = without_face(head, "", keep=True)
    assert kept is head
    assert record_ == {"done": "kept", "why": "by choice"}


def test_a_head_without_a_brain_is_set_apart() -> None:
    rng = np.random.default_rng(1)
    blob = ndimage.gaussian_filter(rng.standard_normal((48, 48, 48)), 3) * 50
    volume = Volume(blob[None].astype(np.float32), Geometry(np.diag([4.0, 4.0, 4.0, 1.0]), (48, 48, 48)), Modality.CT)
    with pytest.raises(SetApart, match="face-unverified"):
        without_face(volume, "HEAD", keep=False)
    labels = Volume(np.ones((1, 48, 48, 48), np.float32), volume.geometry, Modality.LABEL)
    with pytest.raises(SetApart, match="label map"):
        without_face(labels, "", keep=False)
