"""The command line: exit codes, one line for an error, a fast start, and every command documented."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import medidiff
from medidiff import errors
from medidiff.cli import app, boundary, console
from medidiff.cli.app import hoist, main
from medidiff.io import read_volume, write_volume
from medidiff.volume import Volume
from tests.command_line import medidiff_process

HEAVY = ("torch", "monai", "numpy", "prefect", "nibabel", "pydicom", "scipy", "matplotlib", "pydantic")


def raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


# --- what it costs to ask -----------------------------------------------------------------------------------------


def test_asking_for_help_loads_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from medidiff.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as leave:\n    assert leave.code == 0\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_the_version_is_the_package_s() -> None:
    done = medidiff_process("--version")
    assert (done.returncode, done.stdout) == (0, f"medidiff {medidiff.__version__}\n")


# --- commands are documented ---------------------------------------------------------------------------------------


def commands() -> dict[str, typer.core.TyperCommand]:
    """Every command by its full name, e.g. ``config show``."""
    found = {}
    pending = [("", typer.main.get_command(app))]
    while pending:
        name, command = pending.pop()
        if children := getattr(command, "commands", None):
            pending += [(f"{name} {child}".strip(), value) for child, value in children.items()]
        else:
            found[name] = command
    return found


@pytest.mark.parametrize("name", sorted(commands()))
def test_a_command_has_help_and_is_in_the_readme(name: str, repository: Path) -> None:
    command = commands()[name]
    assert command.help, f"`medidiff {name}` has no help text"
    silent = [p.name for p in command.params if not getattr(p, "help", None)]
    assert not silent, f"`medidiff {name}`: no help text for {silent}"
    readme = (repository / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"medidiff {name}\b", readme), f"README.md does not show `medidiff {name}`"


@pytest.mark.parametrize("name", sorted(commands()))
def test_nothing_in_a_help_text_is_swallowed_as_markup(name: str) -> None:
    shown = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "200"}).output
    assert not re.search(r"\w \.(?:\s|$)", shown), f"`medidiff {name} --help` has a gap before a full stop"


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_says_what_its_exit_codes_mean(name: str) -> None:
    shown = " ".join(CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "200"}).output.split())
    (codes,) = re.findall(r"Exit codes: (.*130 interrupted)", shown)
    assert codes.startswith("0 ")
    assert {int(code) for code in re.findall(r"(?:^|; )(\d+) ", codes)} >= {0, 1, 2, 130}


def test_the_exit_codes_in_the_help_are_the_real_ones() -> None:
    text = " ".join(CliRunner().invoke(app, ["--help"]).output.split())
    for name, code in vars(errors).items():
        if name.startswith("EXIT_"):
            assert re.search(rf"\b{code} \w+", text), f"--help does not explain exit code {code}"


# --- errors become a line and a code -------------------------------------------------------------------------------

CODES = [
    (errors.InputError("a"), 3),
    (errors.DicomSeriesError("a"), 3),
    (errors.BudgetError("a"), 3),
    (errors.ConfigError("a"), 2),
    (errors.CheckpointError("a"), 1),
    (errors.OutputError("a"), 1),
    (errors.GateRefused("a"), 4),
    (KeyboardInterrupt(), 130),
    (ValueError("a"), 1),
    (MemoryError(), 1),
    (SystemExit(7), 7),
    (SystemExit(None), 0),
]


@pytest.mark.parametrize(("error", "code"), CODES, ids=lambda value: type(value).__name__)
def test_an_error_has_its_exit_code_and_one_line(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert boundary.run(raising(error)) == code
    out, err = capsys.readouterr()
    assert out == ""
    if isinstance(error, SystemExit):
        assert err == ""
    else:
        assert err.startswith("medidiff: ")
        assert err.count("\n") == 1


def test_a_defect_says_how_to_see_more_and_debug_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    boundary.run(raising(ZeroDivisionError("Quillfeather")))
    said = capsys.readouterr().err
    assert said.startswith("medidiff: internal error: ZeroDivisionError; run again with --debug")
    # Nobody has seen to it that a foreign message holds no identifier.
    assert "Quillfeather" not in said
    boundary.debug = True
    boundary.run(raising(ZeroDivisionError("oops")))
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_place_that_cannot_be_written_is_an_output_error(number: int) -> None:
    known = boundary.known_error(OSError(number, "x", "there.nii"))
    assert isinstance(known, errors.OutputError)
    assert str(known).startswith("there.nii: ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_told_by_the_system_itself(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        with Path("/dev/full").open("wb", buffering=0) as file:
            file.write(b"x")

    assert boundary.run(command) == errors.EXIT_FAILURE
    assert "no room left on the device" in capsys.readouterr().err


def test_a_message_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    boundary.run(raising(errors.InputError("\x1b[2Jgone\r.nii: not a volume")))
    assert capsys.readouterr().err == "medidiff: \\x1b[2Jgone\\r.nii: not a volume\n"


def test_a_warning_is_one_line_and_developers_warnings_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("two slices are missing", UserWarning, stacklevel=1)
            warnings.warn("old name", DeprecationWarning, stacklevel=1)

    assert boundary.run(command) == 0
    assert capsys.readouterr().err == "medidiff: warning: two slices are missing\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_unwinds_and_ends_with_130(number: signal.Signals, tmp_path: Path) -> None:
    script = (
        "import signal, sys, time\n"
        "from pathlib import Path\n"
        # A shell starts what runs in the background with Ctrl-C ignored, and so might be this test.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from medidiff.cli import boundary\n"
        "def command():\n"
        "    try:\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        f"        Path({str(tmp_path / 'cleaned')!r}).touch()\n"
        "sys.exit(boundary.run(command))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (errors.EXIT_INTERRUPTED, "medidiff: interrupted\n")
    assert (tmp_path / "cleaned").exists()


def test_wrong_usage_is_2() -> None:
    done = medidiff_process("no-such-command")
    assert done.returncode == errors.EXIT_USAGE
    assert "no-such-command" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_leaves_is_no_crash() -> None:
    script = (
        "import sys\n"
        "from medidiff.cli import boundary\n"
        "def command():\n"
        "    sys.stdin.read()\n"
        "    print('x' * 1_000_000)\n"
        "sys.exit(boundary.run(command))\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
    assert process.returncode == errors.EXIT_FAILURE


@pytest.mark.parametrize(
    ("given", "hoisted"),
    [
        (["info", "a", "--debug"], ["--debug", "info", "a"]),
        (["--quiet", "info", "a", "--debug"], ["--quiet", "--debug", "info", "a"]),
        (["info", "--", "--debug"], ["info", "--", "--debug"]),
    ],
)
def test_global_options_stand_anywhere_but_files_keep_their_names(given: list[str], hoisted: list[str]) -> None:
    assert hoist(given) == hoisted


# --- printing ------------------------------------------------------------------------------------------------------


def test_quiet_prints_nothing_but_what_a_program_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure(quiet=True)
    console.say("a")
    console.table("t", ["x"], [[1]])
    console.facts("t", {"x": 1})
    with console.progress("working") as on_progress:
        on_progress(1, 2, "half")
    console.print_json({"x": 1})
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == ({"x": 1}, "")


def test_text_from_files_is_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("[red]a[/red]")
    console.table("[bold]t", ["name"], [["[link]b"]])
    console.facts("", {"[i]c": "[/i]d"})
    out = capsys.readouterr().out
    for literal in ("[red]a[/red]", "[bold]t", "[link]b", "[i]c", "[/i]d"):
        assert literal in out


# --- commands ------------------------------------------------------------------------------------------------------


def test_info_says_what_a_real_head_is(mni_path: Path) -> None:
    done = medidiff_process("info", str(mni_path))
    assert (done.returncode, done.stderr) == (0, "")
    words = {
        line.split("  ")[0].strip(): line.split("  ", 1)[1].strip() for line in done.stdout.splitlines() if "  " in line
    }
    assert words["shape"] == "197 x 233 x 189"
    assert words["spacing (mm)"] == "1 x 1 x 1"
    assert words["orientation"] == "RAS"
    described = json.loads(medidiff_process("info", "--json", str(mni_path)).stdout)
    assert described["shape"] == [197, 233, 189]
    assert described["stored_as"] == "uint8"


def test_info_of_what_is_no_volume(tmp_path: Path) -> None:
    text = tmp_path / "notes.nii"
    text.write_text("not a scan")
    done = medidiff_process("info", str(text))
    assert (done.returncode, done.stdout) == (errors.EXIT_BAD_INPUT, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("medidiff: ")


def test_config_show_prints_the_resolved_config_and_its_hash(repository: Path) -> None:
    path = str(repository / "configs" / "brain-t1.yaml")
    done = medidiff_process("config", "show", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "weight_decay" in done.stdout, "a default that the file leaves out"
    digest = medidiff_process("config", "show", "--digest", path).stdout.strip()
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert done.stdout.endswith(f"# digest {digest}\n")


def test_config_show_tells_the_line_of_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("kind: train\nname: x\ndata: {root: ., train: []}\noptimizer:\n  steps: 0\n")
    done = medidiff_process("config", "show", str(path))
    assert (done.returncode, done.stdout) == (errors.EXIT_USAGE, "")
    assert "wrong.yaml:5: optimizer.steps: " in done.stderr


def test_models_lists_what_ships() -> None:
    from medidiff.models import shipped_models

    done = medidiff_process("models", "--json")
    assert [entry["name"] for entry in json.loads(done.stdout)] == [info.name for info in shipped_models()]
    assert medidiff_process("models", "no-such-model").returncode == errors.EXIT_FAILURE


@pytest.fixture(scope="module")
def tiny_model(mni_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model after three steps of training through the command line: of no use, but whole."""
    folder = tmp_path_factory.mktemp("tiny")
    config = folder / "tiny.yaml"
    config.write_text(
        f"""
        kind: train
        name: tiny
        data:
          root: {mni_path.parent}
          train: [{{files: {mni_path.name}}}]
        network: {{channels: [8, 8], blocks: 1}}
        batches: {{size: 1, patch: 16, line: 48, operators: 4, shares: {{slices: 1}}}}
        optimizer: {{steps: 3, warmup: 1}}
        """
    )
    done = medidiff_process("train", str(config), "-o", str(folder / "run"), "--device", "cpu")
    assert done.returncode == 0, done.stderr
    return folder / "run" / "tiny.safetensors"


@pytest.mark.parametrize("command", [["config", "show"], ["train"]], ids=["config show", "train"])
def test_a_generator_whose_sets_could_not_go_out_is_warned_of_at_once(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from medidiff.cli.app import main

    told = []
    for number, card in enumerate(("{}", "{sources: [{name: x, licence: x, people: 1}], samples_licence: CC0-1.0}")):
        config = tmp_path / f"{number}.yaml"
        people = f"people: {{images: {tmp_path / 'none'}}}"
        config.write_text(
            f"kind: train-generator\nname: g\n{people}\nshape: [8, 8, 8]\noptimizer: {{steps: 1}}\ncard: {card}\n"
        )
        with pytest.raises(SystemExit):
            main([*command, str(config)])
        told.append([line for line in capsys.readouterr().err.splitlines() if "could go out" in line])
    (line,) = told[0]
    assert line.startswith("medidiff: warning: card: does not tell sources, samples_licence: no set made with this")
    assert told[1] == []


def test_a_card_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from medidiff.cli.app import main
    from medidiff.diffusion.checkpoint import save_model

    card = {"summary": "a \x1b[2J", "\x1b]0;x\x07": {"b\x9b": ["\x1b"]}, "limits": "one\ntwo\r"}
    save_model(tmp_path / "m.safetensors", {"kind": "x\x1b[1m"}, {"w": torch.zeros(1)}, card)
    with pytest.raises(SystemExit):
        main(["models", str(tmp_path / "m.safetensors")])
    told = capsys.readouterr().out
    assert "a \\x1b[2J" in told
    assert "one two\\r" in told
    assert all(c.isprintable() for c in told.replace("\n", ""))


def test_train_writes_a_model_that_models_can_show(tiny_model: Path) -> None:
    shown = medidiff_process("models", str(tiny_model))
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"^steps +3$", shown.stdout, flags=re.MULTILINE)


def test_reconstruct_writes_what_it_says(tiny_model: Path, mni: Volume, tmp_path: Path) -> None:
    corner = mni.data[:, 80:112, 100:140, 60:100]
    geometry = mni.geometry.cropped((80, 100, 60), (32, 40, 40)).resampled(2, 10, 4.0)
    scan = tmp_path / "scan.nii.gz"
    write_volume(Volume(corner.reshape(1, 32, 40, 10, 4).mean(-1), geometry), scan)
    done = medidiff_process(
        "reconstruct", str(scan), "--model", str(tiny_model), "--device", "cpu", "--preview", str(tmp_path / "p.png")
    )
    assert done.returncode == 0, done.stderr
    assert "10 slices from foot to head, 4 mm apart" in done.stdout
    written = tmp_path / "scan_medidiff.nii.gz"
    assert str(written) in done.stdout
    assert read_volume(written).geometry.spacing == pytest.approx((1, 1, 1))
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    (percent,) = re.findall(r"data consistency +([0-9.]+)% NRMSE", done.stdout)
    assert float(percent) < 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nothing.nii"], errors.EXIT_BAD_INPUT),
        ([".", "-o", "x.nii.gz"], errors.EXIT_BAD_INPUT),
        (["scan.nii", "--profile", "round"], errors.EXIT_USAGE),
        (["scan.nii", "--steps", "0"], errors.EXIT_USAGE),
        (["scan.nii", "-o", "x.jpg"], errors.EXIT_USAGE),
        (["scan.nii", "-o", "no/such/folder/x.nii"], errors.EXIT_USAGE),
        (["scan.nii", "--spacing", "-1"], errors.EXIT_USAGE),
        (["scan.nii", "--model", "no-such-model"], errors.EXIT_FAILURE),
    ],
)
def test_reconstruct_refuses_in_one_line_and_writes_nothing(
    arguments: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mni: Volume, tiny_model: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    write_volume(Volume(mni.data[:, 80:96, 80:96, 80:96], mni.geometry.cropped((80, 80, 80), (16, 16, 16))), "scan.nii")
    model = [] if "--model" in arguments else ["--model", str(tiny_model)]
    done = medidiff_process("reconstruct", *arguments, *model)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert "Traceback" not in done.stderr
    assert code == errors.EXIT_USAGE or done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii"]


def test_a_line_end_in_a_file_name_forges_no_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        main(["info", "missing\nmedidiff: all is well.nii"])
    assert leave.value.code == 3
    assert len(capfd.readouterr().err.strip().splitlines()) == 1
