"""NIfTI headers without what people type into them."""

from __future__ import annotations

from typing import Any

import numpy as np

# What a header may say in words: how many characters each field has, from the NIfTI-1 and NIfTI-2 standards.
_TEXT_FIELDS = ("descrip", "aux_file", "intent_name", "db_name", "data_type", "regular", "unused_str")
_NUMBER_FIELDS = ("session_error", "extents", "glmax", "glmin")
# Names that software gives to what the numbers mean; everything else in intent_name is somebody's note.
_INTENT_NAMES = frozenset({b"", b"labels", b"mask", b"segmentation", b"probability", b"zscore", b"tscore"})


def clean_nifti(image: Any) -> Any:
    """A NIfTI image with the same voxels and geometry and a header without free text or extensions.

    Args:
        image: A nibabel Nifti1Image, Nifti2Image or Nifti1Pair; it is not changed.
    Returns:
        A new image of the same class that shares the voxel data; the text fields, legacy fields and header extensions
        (DICOM, AFNI, comments, anything) are empty.
    """
    header = image.header.copy()
    names = header.structarr.dtype.names or ()
    kept = bytes(header["intent_name"]).rstrip(b"\0 ") if "intent_name" in names else b""
    for field in _TEXT_FIELDS:
        if field in names:
            header[field] = b""
    for field in _NUMBER_FIELDS:
        if field in names:
            header[field] = 0
    if kept.lower() in _INTENT_NAMES:
        header["intent_name"] = kept
    header.extensions.clear()
    clean = type(image)(image.dataobj, image.affine, header)
    clean.header.extensions.clear()
    return clean


def header_is_clean(image: Any) -> bool:
    """Whether a NIfTI header has no text, no extension and nothing in its legacy fields."""
    header = image.header
    names = header.structarr.dtype.names or ()
    texts = [bytes(np.asarray(header[field]).tobytes()).rstrip(b"\0 ") for field in _TEXT_FIELDS if field in names]
    intent = bytes(header["intent_name"]).rstrip(b"\0 ").lower() if "intent_name" in names else b""
    return (
        all(not text or text.lower() == intent for text in texts) and intent in _INTENT_NAMES and not header.extensions
    )
