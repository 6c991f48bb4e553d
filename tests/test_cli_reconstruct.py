"""``medidiff reconstruct`` as a user meets it: one line for what is wrong, and no half of anything."""

from __future__ import annotations

import gzip
import os
import pickle
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from medidiff import errors
from medidiff.cli import main
from medidiff.geometry import Geometry
from medidiff.io import read_volume, write_volume
from medidiff.io.atomic import is_temporary
from medidiff.volume import Volume
from tests.tiny_model import write_tiny_model

THICK = np.diag([1.0, 1.0, 4.0, 1.0])


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors"))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that the command runs in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sound(shape: tuple[int, int, int] = (20, 20, 6), frames: int = 1) -> Volume:
    data = np.random.default_rng(0).uniform(10, 1000, (frames, *shape)).astype(np.float32)
    return Volume(data, Geometry(THICK, shape))


def here() -> list[str]:
    """Names in the current folder."""
    return sorted(path.name for path in Path().iterdir())


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["reconstruct", *words])
    return int(left.value.code or 0)


# --- bad input: code 3 -----------------------------------------------------------------------------------------------


def no_volume(path: Path) -> None:
    path.write_text("not a scan")


def an_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.ones((4, 4, 4)))


def cut_short(path: Path) -> None:
    write_volume(sound(), "whole.nii.gz")
    packed = Path("whole.nii.gz").read_bytes()
    path.write_bytes(packed[: len(packed) // 2])
    Path("whole.nii.gz").unlink()


def lying(path: Path) -> None:
    write_volume(sound(), "whole.nii")
    content = bytearray(Path("whole.nii").read_bytes())
    struct.pack_into("<3h", content, 42, 30000, 30000, 30000)
    path.write_bytes(gzip.compress(bytes(content)))
    Path("whole.nii").unlink()


def of_data(data: np.ndarray, affine: np.ndarray = THICK) -> Callable[[Path], None]:
    return lambda path: nibabel.save(nibabel.Nifti1Image(data, affine), path)


def broken(value: float, share: int = 100) -> np.ndarray:
    data = sound().data[0].copy()
    data.reshape(-1)[::share] = value
    return data


def coloured(path: Path) -> None:
    pixels = np.zeros((20, 20, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(pixels, THICK), path)


def a_folder(path: Path) -> None:
    path.mkdir()
    (path / "notes.txt").write_text("no picture")


SHEARED = THICK.copy()
SHEARED[1, 2] = 1.2

BAD_INPUT = {
    "missing": (lambda path: None, "there is no file"),
    "empty": (Path.touch, "is empty"),
    "no volume": (no_volume, "is no volume"),
    "NumPy array": (an_array, "is a NumPy array"),
    "cut short": (cut_short, "is cut short"),
    "lying header": (lying, "30000"),
    "NaN": (of_data(broken(np.nan)), "NaN"),
    "infinite": (of_data(broken(np.inf)), "infinite"),
    "nothing but NaN": (of_data(broken(np.nan, 1)), "no finite value"),
    "constant": (of_data(np.full((20, 20, 6), 7.0, np.float32)), "is constant"),
    "2D": (of_data(np.ones((20, 20), np.float32)), "single image"),
    "2D in three axes": (of_data(np.ones((20, 20, 1), np.float32)), "single image"),
    "colours": (coloured, "RGB"),
    "sheared": (of_data(sound().data[0], SHEARED), "not at right angles"),
    "a thread": (of_data(sound((4, 4, 40)).data[0]), "at least 8 voxels"),
    "no DICOM": (a_folder, "holds no DICOM"),
}


@pytest.mark.parametrize("what", BAD_INPUT)
def test_bad_input_is_one_line_and_code_3(
    what: str, model: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, words = BAD_INPUT[what]
    make(work / "scan.nii.gz")
    before = here()
    assert run("scan.nii.gz", "--model", model) == errors.EXIT_BAD_INPUT
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("medidiff: ")
    assert err.count("\n") == 1
    assert "scan.nii.gz" in err
    assert words in err
    assert here() == before


def test_debug_shows_where(work: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("nothing.nii", "--model", model, "--debug") == errors.EXIT_BAD_INPUT
    assert "Traceback (most recent call last)" in capsys.readouterr().err


# --- places and models: codes 1 and 2 ----------------------------------------------------------------------


def not_a_model(path: Path) -> Path:
    path.write_text("{}")
    return path


def pickled(path: Path) -> Path:
    class Trap:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, ("touch unpickled",)

    path.write_bytes(pickle.dumps(Trap()))
    return path


def torch_pickle(path: Path) -> Path:
    torch.save({"a": torch.zeros(3)}, path)
    return path


def foreign(path: Path) -> Path:
    save_file({"a": torch.zeros(3)}, path)
    return path


@pytest.mark.parametrize("make", [not_a_model, pickled, torch_pickle, foreign])
def test_what_is_no_model_is_not_opened_as_one(
    make: Callable[[Path], Path], work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_volume(sound(), "scan.nii")
    make(work / "model.safetensors")
    assert run("scan.nii", "--model", "model.safetensors") == errors.EXIT_FAILURE
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "model.safetensors" in err
    assert "not a model file of medidiff" in err
    assert here() == ["model.safetensors", "scan.nii"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--output", "no/such/out.nii"], 2, "there is no folder no/such; create it first"),
        (["--output", "scan.nii/out.nii"], 2, "there is no folder scan.nii"),
        (["--output", "out.jpg"], 2, "must end in one of"),
        (["--output", "scan.nii"], 2, "it is the input"),
        (["--output", "folder.nii"], 2, "it is a folder"),
        (["--preview", "no/such/p.png"], 2, "there is no folder"),
        (["--output", "x" * 300 + ".nii"], 2, "cannot write"),
        (["--device", "tpu"], 2, "--device must be cpu, cuda or cuda:N"),
        (["--thickness", "nan"], 2, "--thickness must be a number of mm above 0"),
        (["--spacing", "1e9"], 2, "--spacing must be a number of mm above 0 and up to 1000, got 1e+09"),
        (["--samples", "1", "--seed", "-1"], 2, "--seed must be a whole number from 0"),
        (["--samples", "1", "--seed", "99999999999999999999"], 2, "--seed must be a whole number from 0"),
        (["--samples", "99999999999"], 2, "--samples must be 0 to 1000"),
    ],
    ids=lambda value: value[-1][:20] if isinstance(value, list) else None,
)
def test_wrong_places_and_options_are_one_line(
    words: list[str], code: int, said: str, model: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_volume(sound(), "scan.nii")
    Path("folder.nii").mkdir()
    assert run("scan.nii", "--model", model, *words) == code
    err = capsys.readouterr().err
    assert err.startswith("medidiff: ")
    assert err.count("\n") == 1
    assert said in err
    assert here() == ["folder.nii", "scan.nii"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none(model: str, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_volume(sound(), "scan.nii")
    assert run("scan.nii", "--model", model, "--device", "cuda") == errors.EXIT_USAGE
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "use --device cpu" in err
    assert here() == ["scan.nii"]


# --- what the machine does: a process of its own ----------------------------------------------------------------------


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "medidiff", "reconstruct", *words, "--device", "cpu"]


def environment(repository: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(repository), "COLUMNS": "120", "NO_COLOR": "1"}


def test_a_full_disk_leaves_nothing(model: str, work: Path, repository: Path) -> None:
    write_volume(sound(), "scan.nii")
    done = subprocess.run(
        command("scan.nii", "-o", "out.nii.gz", "--model", model),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environment(repository),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)),
    )
    assert done.returncode == errors.EXIT_FAILURE
    assert done.stderr.count("\n") == 1
    assert "no room left" in done.stderr
    assert "out.nii.gz" in done.stderr
    assert here() == ["scan.nii"]


def test_a_folder_without_permission_is_told_at_once(model: str, work: Path, repository: Path) -> None:
    write_volume(sound(), "scan.nii")
    closed = work / "closed"
    closed.mkdir(mode=0o555)
    shut: list[str] = []
    if os.geteuid() == 0:  # permissions do not bind root, a file system that is mounted read-only does
        shut = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o ro tmpfs closed && exec "$@"', "sh"]
        if not shutil.which("unshare") or subprocess.run([*shut, "true"], check=False, capture_output=True).returncode:
            pytest.skip("root cannot be kept out here: no mount namespaces")
    words = [*shut, *command("scan.nii", "-o", "closed/out.nii", "--model", model)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment(repository))
    assert (done.returncode, done.stdout) == (errors.EXIT_FAILURE, "")
    assert done.stderr.count("\n") == 1
    assert "no permission to write in closed" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_leaves_nothing_at_the_target(
    number: signal.Signals, model: str, work: Path, repository: Path
) -> None:
    write_volume(sound((128, 128, 20)), "scan.nii")
    # A shell that runs us in the background has Ctrl-C ignored, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        command("scan.nii", "-o", "out.nii.gz", "--model", model),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(repository),
    )
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 120
    while not any(map(is_temporary, here())):  # it is writing now
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    left = set(here()) - {"scan.nii"}
    assert "out.nii.gz" not in left
    if number is signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
        assert all(map(is_temporary, left))
    else:
        assert (process.returncode, err, left) == (errors.EXIT_INTERRUPTED, "medidiff: interrupted\n", set())


# --- what it says ----------------------------------------------------------------------------------------------------


def test_it_tells_the_plan_the_grids_and_the_agreement(
    model: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_volume(sound(frames=2), "scan.nii")
    assert run("scan.nii", "--model", model, "--samples", "2", "--steps", "1", "--report", "r.html") == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0].startswith("6 slices from foot to head, 4 mm apart, touching (assumed: the header does not say)")
    told = {line.split("  ")[0]: line.split("  ", 1)[1].strip() for line in lines[1:]}
    assert told["written"] == "scan_medidiff.nii.gz"
    assert told["grid"] == "20 x 20 x 6 (1 x 1 x 4 mm) -> 20 x 20 x 24 (1 x 1 x 1 mm)"
    assert told["samples"] == "scan_medidiff_sample-01.nii.gz, scan_medidiff_sample-02.nii.gz"
    assert told["spread"] == "scan_medidiff_spread.nii.gz (not calibrated)"
    assert told["model"] == "tiny"
    assert float(told["data consistency"].removesuffix("% NRMSE")) < 1
    assert read_volume("scan_medidiff.nii.gz").data.shape == (2, 20, 20, 24)


def test_a_warning_comes_before_the_work(model: str, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_volume(Volume(sound().data[..., :3], Geometry(THICK, (20, 20, 3))), "scan.nii")
    assert run("scan.nii", "--model", model) == 0
    assert "medidiff: warning: Only 3 slices" in capsys.readouterr().err


def test_an_isotropic_scan_says_that_there_is_nothing_to_do(
    model: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_volume(Volume(sound().data, Geometry(np.eye(4), (20, 20, 6))), "scan.nii")
    assert run("scan.nii", "--model", model) == 0
    out, _ = capsys.readouterr()
    assert "nothing to restore" in out
    np.testing.assert_array_equal(read_volume("scan_medidiff.nii.gz").data, read_volume("scan.nii").data)


def test_info_says_what_would_be_done(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_volume(Volume(sound().data[..., :3], Geometry(THICK, (20, 20, 3))), "scan.nii")
    with pytest.raises(SystemExit) as left:
        main(["info", "scan.nii"])
    out, err = capsys.readouterr()
    assert (left.value.code, err) == (0, "")
    assert "3 slices from foot to head, 4 mm apart" in out
    assert "Only 3 slices" in out
