"""Release: what passed goes out whole, marked, the same every time; all else is refused, and nothing is left."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import yaml
from PIL import Image

from medidiff import errors
from medidiff.cli import main
from medidiff.errors import ConfigError, GateRefused, InputError, OutputError
from medidiff.io import read_volume
from medidiff.release import FORMATS, ReleaseOptions, check, release
from medidiff.synthetic import (
    LabelClass,
    Metadata,
    QualityReport,
    SyntheticSet,
    SyntheticSetWriter,
    judge,
    write_report,
)
from medidiff.volume import Modality, Volume
from tests.command_line import medidiff_process
from tests.synthetic.fixtures import pristine, releasable
from tests.synthetic.sets import PLAN, png, privacy, quality, write_set

__all__ = ["pristine", "releasable"]

ALL = ReleaseOptions(formats=FORMATS)
LIGHT = ReleaseOptions(formats=("nnunet",))
PAPERS = {"README.md", "DATASHEET.md", "MODEL_CARD.md", "LICENSES.md", "SHA256SUMS", "report.html"}
RECORDS = {"quality.json", "privacy.json", "release.json"}


def needs_highdicom() -> None:
    pytest.importorskip("highdicom", reason="highdicom, which writes segmentations, is not installed")


def tree(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def released(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs_highdicom()
    folder = tmp_path_factory.mktemp("releases")
    release(pristine, folder / "out", ALL, report=folder / "house.html")
    return folder / "out"


def test_everything_promised_is_there_and_checks(released: Path) -> None:
    assert {path.name for path in released.iterdir()} == {*FORMATS, *PAPERS, *RECORDS}
    assert check(released) == len(tree(released))
    if shutil.which("sha256sum"):
        done = subprocess.run(["sha256sum", "-c", "--strict", "--quiet", "SHA256SUMS"], cwd=released, check=False)
        assert done.returncode == 0


def test_two_releases_of_a_set_are_the_same_to_the_last_byte(released: Path, pristine: Path, tmp_path: Path) -> None:
    # Another place, another order of formats, files copied elsewhere: nothing of it may show.
    moved = Path(shutil.copytree(pristine, tmp_path / "elsewhere"))
    release(moved, tmp_path / "again", ReleaseOptions(formats=FORMATS[::-1]))
    assert tree(tmp_path / "again") == tree(released)


def test_all_formats_hold_the_same_voxels_in_the_same_place(released: Path, pristine: Path) -> None:
    synthetic = SyntheticSet.open(pristine)
    for item in synthetic.items[::4]:
        wanted, label = synthetic.image(item), synthetic.label(item)
        copies = {
            released / "bids" / f"sub-{item.id}" / "anat" / f"sub-{item.id}_desc-synthetic_T1w.nii.gz": wanted,
            released / "nnunet" / "Dataset900_CropFixture" / "imagesTr" / f"{item.id}_0000.nii.gz": wanted,
            released / "croissant" / item.image.path: wanted,
            released / "dicom" / item.id / "image": wanted,
            released / "nnunet" / "Dataset900_CropFixture" / "labelsTr" / f"{item.id}.nii.gz": label,
        }
        for path, expected in copies.items():
            assert expected is not None
            found = read_volume(path).reoriented()
            assert found.geometry.distance(expected.reoriented().geometry) < 1e-3
            np.testing.assert_array_equal(found.data, expected.reoriented().data)


def test_no_text_says_the_word_that_nothing_supports(released: Path) -> None:
    for path in released.rglob("*"):
        if path.is_file():
            assert b"anonymous" not in path.read_bytes().lower(), path.name
    assert b"anonymous" not in (released.parent / "house.html").read_bytes().lower()


def shades(page: Path) -> list[set[tuple[int, ...]]]:
    """The colours of every picture of a page."""
    pictures = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page.read_text())
    opened = [Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB") for picture in pictures]
    return [{colour for _, colour in picture.getcolors(1 << 24)} for picture in opened]


def test_pictures_of_training_data_stay_in_the_house(released: Path) -> None:
    shown = shades(released.parent / "house.html")
    assert {(90,) * 3, (160,) * 3} <= set.union(*shown), "the synthetic item and its neighbour stand side by side"
    assert "For the house only: shows training data" in (released.parent / "house.html").read_text()
    assert len(shown) == len(shades(released / "report.html")) + 1
    real = base64.b64encode(png(160))
    for path in released.rglob("*"):
        if path.is_file():
            assert real not in path.read_bytes(), path.name
    assert json.loads((released / "privacy.json").read_text())["neighbours"][1]["nearest_png"] is None


def test_the_page_says_what_an_officer_asks_and_loads_nothing(released: Path) -> None:
    page = (released / "report.html").read_text()
    assert not re.search(r"""(?:src|href)=["'](?!data:)|url\(|@import|<script|<iframe|<link""", page)
    assert "default-src 'none'" in page
    for text in (
        "May be released",
        "A fixture of the test suite",
        "MNI152 (ICBM 2009a nonlinear symmetric)",
        "152",
        "Privacy: passed",
        "membership AUC (loss)",
        "0.44 to 0.58, 95%",
        "upper end below 0.6",
        "blur 0.4, noise 0.6",
        "training gave no such guarantee",
        "k-anonymity: k = 5",
        "flipped left to right",
        "evidence, not proof",
    ):
        assert text in page, text
    assert page.count("data:image/png") == 2, "a contact sheet and the plot of distances"


def test_the_card_has_the_front_matter_of_its_readers(released: Path) -> None:
    _, front, text = (released / "README.md").read_text().split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["license"] == "cc-by-4.0"
    assert facts["size_categories"] == ["n<1K"]
    assert facts["task_categories"] == ["image-segmentation"]
    assert {"synthetic", "medical", "t1w"} <= set(facts["tags"])
    assert (
        "| KID | 0.031 | 0.012 to 0.055 (95%) | 40 patients | 0.002 | blur 0.4, noise 0.6 | at most 0.1 | passed |"
        in text
    )
    assert "LicenseRef-MNI" in (released / "LICENSES.md").read_text()
    assert "No model at all" in (released / "MODEL_CARD.md").read_text()
    sheet = (released / "DATASHEET.md").read_text()
    for heading in ("Motivation", "Composition", "Making", "Processing", "Uses", "Distribution", "Maintenance"):
        assert f"## {heading}\n" in sheet


def test_a_licence_without_a_word_of_hugging_face_is_told_as_other(pristine: Path, tmp_path: Path, mni: Volume) -> None:
    folder = tmp_path / "set"
    synthetic = write_set(folder, mni, PLAN.model_copy(update={"licence": "Hospital terms 3"}))
    write_report(quality(synthetic), folder)
    write_report(privacy(synthetic), folder)
    release(folder, tmp_path / "out", LIGHT)
    facts = yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---\n")[1])
    assert (facts["license"], facts["license_name"]) == ("other", "Hospital terms 3")


def test_what_is_refused_leaves_nothing_but_its_page(releasable: Path, tmp_path: Path) -> None:
    (releasable / "images" / "s003.json").unlink()
    (releasable / "privacy.json").unlink()
    with pytest.raises(
        GateRefused, match=r"^refused, 2 reasons:\n  - images/s003\.json: missing\n  - privacy\.json: there"
    ):
        release(releasable, tmp_path / "out", LIGHT, report=tmp_path / "page.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "set"]
    page = (tmp_path / "page.html").read_text()
    assert "Refused" in page
    assert "images/s003.json: missing" in page
    assert "No privacy report" in page


def test_a_page_can_be_made_of_a_set_that_cannot_be_read(releasable: Path, tmp_path: Path) -> None:
    (releasable / "set.json").write_text("{}")
    with pytest.raises(GateRefused, match=r"set\.json: "):
        release(releasable, tmp_path / "out", LIGHT, report=tmp_path / "page.html")
    assert "a set that cannot be read" in (tmp_path / "page.html").read_text()


def spoil_mark(path: Path) -> None:
    dataset = pydicom.dcmread(path)
    del dataset.ContributingEquipmentSequence
    dataset.save_as(path)


def spoil_header(path: Path) -> None:
    image = nibabel.load(path)
    nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine).to_filename(path)


def spoil_sidecar(path: Path) -> None:
    path.write_text("{}")


SPOILT = {
    "dicom/s000/image/0001.dcm": spoil_mark,
    "dicom/s000/segmentation.dcm": spoil_mark,
    "croissant/labels/s000.nii.gz": spoil_header,
    "nnunet/Dataset900_CropFixture/dataset.json": spoil_sidecar,
}


def test_a_mark_that_was_stripped_after_the_release_is_found(released: Path, tmp_path: Path) -> None:
    for rehashed in (False, True):
        folder = Path(shutil.copytree(released, tmp_path / f"copy{rehashed}"))
        for name, spoil in SPOILT.items():
            spoil(folder / name)
        if rehashed:
            sums = "".join(f"{digest}  {name}\n" for name, digest in tree(folder).items() if name != "SHA256SUMS")
            (folder / "SHA256SUMS").write_text(sums)
        with pytest.raises(GateRefused) as refused:
            check(folder)
        told = str(refused.value)
        for name in SPOILT:
            assert f"{name}: not marked as synthetic" in told
            assert (f"{name}: altered" in told) is not rehashed


def test_a_release_with_a_file_more_or_less_is_found(released: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(released, tmp_path / "copy"))
    (folder / "LICENSES.md").unlink()
    (folder / "bids" / "real.nii.gz").write_bytes(b"scan")
    with pytest.raises(GateRefused) as refused:
        check(folder)
    told = str(refused.value)
    assert "LICENSES.md: missing" in told
    assert "bids/real.nii.gz: not part of the release" in told
    with pytest.raises(InputError, match="no release there"):
        check(tmp_path)


def test_a_name_cannot_forge_a_line_and_a_thousand_reasons_are_not_printed(releasable: Path, tmp_path: Path) -> None:
    synthetic, good = SyntheticSet.open(releasable), tmp_path / "good"
    release(releasable, good, LIGHT)
    (good / "x\nmedidiff: all is well").write_bytes(b"")
    for number in range(150):
        (good / f"y{number}").write_bytes(b"")
    with pytest.raises(GateRefused) as refused:
        check(good)
    assert r"  - x\nmedidiff: all is well: not part of the release" in str(refused.value).split("\n")
    report = quality(synthetic)
    rest = report.model_dump(exclude={"verdict", "reasons", "metrics"})
    write_report(QualityReport.conclude(report.metrics, [f"y{number}" for number in range(151)], **rest), releasable)
    with pytest.raises(GateRefused) as refused:
        release(releasable, tmp_path / "out", LIGHT, report=tmp_path / "page.html")
    first, *lines = str(refused.value).split("\n")
    assert first == "refused, 151 reasons:"
    assert lines[-1] == "  - and 51 more"
    assert len(lines) == 101
    assert all(line.startswith("  - ") for line in lines)
    assert "y150" in (tmp_path / "page.html").read_text()


def test_killed_at_any_step_nothing_or_all_is_there(pristine: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    deaths = 0
    for step in range(9):
        child = os.fork()
        if child == 0:
            release(
                pristine, target, LIGHT, lambda done, total, what, step=step: done == step and os.kill(os.getpid(), 9)
            )
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            break
        deaths += 1
        if target.exists():  # killed after the last step: then all is there
            check(target)
            shutil.rmtree(target)
        assert all(path.name.startswith(".out.medidiff-release-") for path in tmp_path.iterdir())
    assert deaths == 5
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "what killed runs left is gone"
    check(target)


def test_killed_in_the_moment_in_which_it_appears_it_is_whole(pristine: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    child = os.fork()
    if child == 0:
        # Called before the interpreter opens, lists, makes or renames anything: the first call after it appeared kills.
        sys.addaudithook(lambda event, _: event != "os.kill" and target.exists() and os.kill(os.getpid(), 9))
        release(pristine, target, LIGHT)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    check(target)


def test_an_error_on_the_way_leaves_nothing(pristine: Path, tmp_path: Path) -> None:
    def interrupt(done: int, total: int, what: str) -> None:
        if what == "checking every file":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        release(pristine, tmp_path / "out", LIGHT, interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_taken_is_refused_before_any_work(releasable: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    for target, words, code in (
        (tmp_path / "taken", "it exists", errors.EXIT_FAILURE),
        (tmp_path / "no" / "folder", "there is no folder", errors.EXIT_USAGE),
        (releasable / "out", "in the set itself", errors.EXIT_USAGE),
    ):
        with pytest.raises(OutputError, match=words) as told:
            release(releasable, target, LIGHT)
        assert told.value.exit_code == code


def test_a_format_that_does_not_fit_is_told_before_any_work(tmp_path: Path, mni: Volume) -> None:
    folder = tmp_path / "set"
    synthetic = write_set(folder, mni, PLAN.model_copy(update={"labels": ()}))
    write_report(quality(synthetic), folder)
    write_report(privacy(synthetic), folder)
    with pytest.raises(ConfigError, match="nnunet needs a label map"):
        release(folder, tmp_path / "out", ALL)
    done = release(folder, tmp_path / "out", ReleaseOptions(formats=("bids", "dicom")))
    assert done.formats == ("bids", "dicom")
    assert not list((tmp_path / "out").rglob("segmentation.dcm"))
    assert check(tmp_path / "out") == done.files


HIPPOCAMPUS = PLAN.model_copy(
    update={
        "name": "hippocampus-fixture",
        "note": "A fixture of the test suite: real crops in the form of a synthetic set, never to be released.",
        "labels": (LabelClass(value=1, name="anterior"), LabelClass(value=2, name="posterior")),
    }
)


def test_real_volumes_and_label_maps_go_through_unchanged(shared: Path, tmp_path: Path) -> None:
    needs_highdicom()
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    data = shared / "data" / "msd-hippocampus"
    writer = SyntheticSetWriter(tmp_path / "set", HIPPOCAMPUS)
    names = sorted(path.name for path in (data / "images").iterdir())[:5]
    for number, name in enumerate(names):
        image, label = read_volume(data / "images" / name), read_volume(data / "labels" / name)
        mapped = Volume(label.data, image.geometry, Modality.LABEL)
        image = Volume(image.data, image.geometry, Modality.MR)
        writer.add(f"h{number}", number, image, mapped, suffix="T1w", metadata=Metadata())
    synthetic = writer.finish()
    write_report(quality(synthetic), tmp_path / "set")
    write_report(privacy(synthetic, neighbours=()), tmp_path / "set")
    assert judge(tmp_path / "set").reasons == ()
    release(tmp_path / "set", tmp_path / "out", ALL)
    for number, name in enumerate(names):
        label = sitk.ReadImage(str(data / "labels" / name))
        ours = sitk.ReadImage(
            str(tmp_path / "out" / "nnunet" / "Dataset900_HippocampusFixture" / "labelsTr" / f"h{number}.nii.gz")
        )
        np.testing.assert_array_equal(sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(label))
        np.testing.assert_allclose(ours.GetOrigin(), label.GetOrigin(), atol=1e-3)
        np.testing.assert_allclose(ours.GetDirection(), label.GetDirection(), atol=1e-5)
        item = synthetic.items[number]
        real = read_volume(data / "images" / name)
        back = synthetic.image(item).data * item.intensity.slope + item.intensity.intercept
        np.testing.assert_allclose(back, real.data, atol=0.51 * item.intensity.slope)


def test_the_command_releases_checks_and_refuses_with_4(releasable: Path, tmp_path: Path) -> None:
    done = medidiff_process("release", "set", "--format", "bids,nnunet", "-o", "out", "--json", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads(done.stdout)
    assert (facts["items"], facts["formats"]) == (10, "bids, nnunet")
    checked = medidiff_process("release", "out", "--check", folder=tmp_path)
    assert checked.returncode == 0
    assert re.search(rf"files +{facts['files']}\n", checked.stdout)

    (releasable / "labels" / "s001.nii.gz").unlink()
    (releasable / "quality.json").unlink()
    refused = medidiff_process("release", "set", "-o", "second", "--report", "page.html", folder=tmp_path)
    assert refused.returncode == 4
    assert refused.stdout == ""
    lines = refused.stderr.splitlines()
    assert lines[0] == "medidiff: refused, 2 reasons:"
    assert lines[1] == "  - labels/s001.nii.gz: missing"
    assert lines[2].startswith("  - quality.json: there is no such report; have the set examined")
    assert not (tmp_path / "second").exists()
    assert "Refused" in (tmp_path / "page.html").read_text()
    assert "anonymous" not in (done.stdout + checked.stdout + refused.stderr).lower()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("set", "-o", "out", "--format", "bids,jpeg"), 2, "expected some of bids, nnunet, dicom, croissant"),
        (("set", "-o", "out", "--format", ""), 2, "--format"),
        (("set",), 2, "--output"),
        (("nowhere", "-o", "out"), 3, "no synthetic set there"),
        (("set", "-o", "set"), 1, "it exists"),
        (("set", "--check"), 3, "no release there"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(
    arguments: tuple[str, ...],
    code: int,
    words: str,
    releasable: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as leave:
        main(["release", *arguments])
    assert leave.value.code == code
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]
