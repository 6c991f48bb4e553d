"""Nothing planted survives, and nothing that makes the image an image is lost."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from tests.privacy.planting import Planter, packaged, plant_overlay_bits
from pydicom.dataset import Dataset

from medidiff.privacy.deidentify import CleanResult, deidentify_dataset, write_clean
from medidiff.privacy.keys import PrivacyKey
from medidiff.privacy.policy import CannotClean, DeidentifyPolicy

KEY = PrivacyKey(bytes(range(32)))
HEADER_ONLY = DeidentifyPolicy(clean_pixels=False)
GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "Rows", "Columns",
            "RescaleSlope", "RescaleIntercept", "SliceLocation", "SpacingBetweenSlices", "InstanceNumber")  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet() -> None:
    warnings.filterwarnings("ignore", module="pydicom")


def to_bytes(result: CleanResult) -> bytes:
    buffer = io.BytesIO()
    write_clean(result, buffer)
    return buffer.getvalue()


def planted_file(name: str, seed: int, share: float = 1.0) -> tuple[Planter, bytes]:
    planter = Planter(seed)
    ds = packaged(name)
    planter.plant_everywhere(ds, share=share)
    return planter, planter.file(ds)


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm"])
@pytest.mark.parametrize(("seed", "share"), [(1, 1.0), (2, 0.5), (3, 0.1)])
def test_no_canary_survives_in_any_attribute(name: str, seed: int, share: float) -> None:
    planter, data = planted_file(name, seed, share)
    assert len(planter.planted.places) > 500
    assert planter.planted.visible_in(data) > 0.8

    clean = to_bytes(deidentify_dataset(pydicom.dcmread(io.BytesIO(data)), HEADER_ONLY, KEY))

    assert planter.planted.left_in(clean) == {}


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm"])
def test_pixels_and_geometry_survive_the_planting(name: str) -> None:
    _, data = planted_file(name, 4)
    before = packaged(name)
    after = pydicom.dcmread(io.BytesIO(to_bytes(deidentify_dataset(pydicom.dcmread(io.BytesIO(data)), HEADER_ONLY, KEY))))

    np.testing.assert_array_equal(after.pixel_array, before.pixel_array)
    for keyword in GEOMETRY:
        assert after.get(keyword) == before.get(keyword), keyword
    assert after.Modality == before.Modality
    assert after.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    assert after.preamble == b"\0" * 128
