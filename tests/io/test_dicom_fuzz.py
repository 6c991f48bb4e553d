"""Mutated DICOM: a volume, a reason or a typed error; never a traceback, a hang or a large allocation."""

from __future__ import annotations

import random
import resource
from pathlib import Path

import pytest

from medidiff.errors import MedidiffError
from medidiff.io.dicom import ReadPolicy, find_series, load
from tests.io.dicom_series import TEST_FILES

BUDGET = 64 << 20
# Beyond the budget: the file twice (read, inflated), and what an allocator keeps.
ALLOWED_GROWTH = 256 << 20
LIMIT_S = 10


def seeds(extra: Path) -> list[bytes]:
    """Real files up to 700 kB: those that pydicom ships, and the series beside the checkout where there are any."""
    files = sorted(path for path in TEST_FILES.glob("*.dcm") if path.stat().st_size < 700_000)
    for name in ("bits12", "enhanced_mr_philips", "hitachi", "philips_scaled", "transfer_syntaxes", "uih_grid"):
        files += sorted((extra / "dicom" / name / "dicom").glob("*"))[:6]
    return [path.read_bytes() for path in files if path.is_file()]


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Damage a file in one of six ways; the header is hit more often than its share."""
    changed = bytearray(content)
    head = min(len(changed), 6000)
    way = rng.randrange(6)
    if way == 0:
        for _ in range(rng.randint(1, 20)):
            changed[rng.randrange(head)] = rng.randrange(256)
    elif way == 1:
        del changed[rng.randrange(len(changed)) :]
    elif way == 2:
        at = rng.randrange(head)
        del changed[at : at + rng.randint(1, 64)]
    elif way == 3:
        at = rng.randrange(head)
        changed[at:at] = rng.randbytes(rng.randint(1, 64))
    elif way == 4:
        at = rng.randrange(max(len(changed) - 4, 1))
        changed[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", bytes(4), b"\xff\xff\xff\x7f", b"\xfe\xff\x00\xe0"))
    else:
        for _ in range(rng.randint(1, 50)):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def run(cases: int, seed: int, folder: Path, extra: Path) -> dict[str, int]:
    rng = random.Random(seed)
    originals = seeds(extra)
    ends = {"volume": 0, "reason": 0, "error": 0}
    policy = ReadPolicy(budget=BUDGET)
    path = folder / "mutant.dcm"
    for _ in range(cases):
        path.write_bytes(mutate(rng.choice(originals), rng))
        report = find_series(path, policy=policy, workers=1)
        assert report.series or report.set_aside
        ends["reason"] += len(report.set_aside)
        for plan in report.series:
            try:
                load(plan, budget=BUDGET)
            except MedidiffError:
                ends["error"] += 1
            else:
                ends["volume"] += 1
    return ends


@pytest.fixture
def extra() -> Path:
    return Path(__file__).resolve().parents[2].parent / "shared"


@pytest.fixture(autouse=True)
def alarm() -> None:
    """No case may hang: the kernel stops the process's computing, and faulthandler says where it was."""
    import faulthandler

    faulthandler.dump_traceback_later(600, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_two_hundred_mutants(tmp_path: Path, extra: Path) -> None:
    before = peak()
    ends = run(200, 20, tmp_path, extra)
    assert peak() - before < BUDGET + ALLOWED_GROWTH
    # All three ends must occur, or the mutations test nothing.
    assert min(ends.values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_two_thousand_mutants(seed: int, tmp_path: Path, extra: Path) -> None:
    before = peak()
    ends = run(500, 100 + seed, tmp_path, extra)
    assert peak() - before < BUDGET + ALLOWED_GROWTH
    assert min(ends.values()) > 0
