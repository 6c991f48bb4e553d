"""The house itself: what is installed, packed and promised by its files."""

from __future__ import annotations

from medidiff.volume import Volume


def test_the_packaged_head_is_a_real_one(mni: Volume) -> None:
    assert mni.data.shape == (1, 197, 233, 189)
    assert mni.geometry.spacing == (1.0, 1.0, 1.0)
    assert mni.geometry.orientation == "RAS"
    assert mni.data.max() > 100
