"""The command: what it writes and says, that it can be killed, and that it stands alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from experiments.synthetic_landmarks.__main__ import main
from experiments.synthetic_landmarks.contact_sheet import save_contact_sheet
from experiments.synthetic_landmarks.errors import DrawingError
from experiments.synthetic_landmarks.writing import write_synthetic_landmarks

ROOT = Path(__file__).resolve().parents[3]
TINY = {"train_landmarks": 3, "test_landmarks": 2, "views": 2, "test_views": 3}
TINY |= {"image_size": 32, "seed": 5}


def tiny_command(target: Path) -> list[str]:
    """The arguments that draw the set TINY."""
    options = ["--train-landmarks", "3", "--test-landmarks", "2", "--views", "2"]
    options += ["--test_views", "3", "--image-size=32", "--seed", "5", "--workers", "1"]
    return ["--output", str(target), *options]


def test_command_draws_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "set"
    assert main(tiny_command(target)) == 0
    assert "train.txt" in capsys.readouterr().out
    assert not write_synthetic_landmarks(target, **TINY), "the flags set the options"
    before = {p: p.stat().st_mtime_ns for p in target.rglob("*")}
    assert main(tiny_command(target)) == 0
    assert "nothing to draw" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in target.rglob("*")} == before


def test_contact_sheet(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    assert main([*tiny_command(tmp_path / "set"), "--contact-sheet", str(sheet)]) == 0
    with Image.open(sheet) as picture:
        assert picture.size == (3 * 36, 5 * 36)
    save_contact_sheet(tmp_path / "set", sheet, max_landmarks=2, max_views=1)
    with Image.open(sheet) as picture:
        assert picture.size == (36, 2 * 36)
    with pytest.raises(DrawingError, match="contact sheet"):
        save_contact_sheet(tmp_path / "set", tmp_path / "sheet.nonsense")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set", "sheet.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "5"], "--output"),
        (["--output", "{}/new", "--views", "two"], "--views: invalid int value: 'two'"),
        (["--output", "{}/new", "--views", "1"], "views is 1"),
        (["--output", "{}/new", "--colour", "3"], "--colour"),
        (["--output", "{}/new", "--view", "3"], "--view"),
        (["--output", "{}/full"], "not a set of synthetic landmarks"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    assert main([argument.format(tmp_path) for argument in arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    assert message in output.err
    assert [p.name for p in tmp_path.iterdir()] == ["full"]


def start_command(target: Path) -> subprocess.Popen[bytes]:
    """Starts a generation that is far from done when its first pictures are there."""
    command = [sys.executable, "-m", "experiments.synthetic_landmarks", "--output", str(target)]
    command += ["--train-landmarks", "20", "--views", "40", "--image-size", "64", "--workers", "2"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 30
    while not list(target.parent.glob(".set.partial-*/images/*_01.jpg")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_killed_run_leaves_what_the_next_one_clears(tmp_path: Path) -> None:
    target = tmp_path / "set"
    process = start_command(target)
    write_synthetic_landmarks(tmp_path / "other", **TINY, workers=1)
    (partial,) = tmp_path.glob(".set.partial-*")
    process.kill()
    process.wait()
    assert not target.exists()
    deadline = time.monotonic() + 20
    while group_lives(process.pid):  # its workers notice, and end themselves
        assert time.monotonic() < deadline
        time.sleep(0.05)
    write_synthetic_landmarks(target, **TINY, workers=1)
    assert not partial.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "set"]


def test_runs_at_work_do_not_disturb_each_other_and_ctrl_c_cleans_up(tmp_path: Path) -> None:
    target = tmp_path / "set"
    process = start_command(target)
    (partial,) = tmp_path.glob(".set.partial-*")
    write_synthetic_landmarks(target, **TINY, workers=1)  # another process, the same directory
    assert partial.exists()
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=30) == 130
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_package_stands_alone(tmp_path: Path) -> None:
    """It imports nothing of ours but itself, and runs wherever its folder lies."""
    (tmp_path / "drawing").symlink_to(ROOT / "experiments" / "synthetic_landmarks")
    code = "import sys, drawing.__main__; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, check=True
    )
    modules = set(found.stdout.decode().split())
    assert {"drawing", "numpy", "PIL", "tqdm"} <= modules
    assert not modules & {"converters", "dir_jax", "experiments", "jax", "torch"}
