from typing import Any


def clean_frames(frames: Any, source: Any, names: frozenset[str]) -> tuple[str, list[Any]]:
    return "not-checked", []
