"""What is refused of a run's directory: another run's, one in use, one on a full disk."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dir_jax.errors import UserError
from dir_jax.training.config import default_config
from dir_jax.training.workdir import MetricsLog, check_free_space, claimed_workdir


def test_full_disk_is_refused(monkeypatch, tmp_path):
    asked = []

    def usage(place):
        asked.append(place)
        return SimpleNamespace(free=350)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    workdir = tmp_path / "not" / "yet"
    with pytest.raises(UserError, match=f"--workdir {workdir}.*config.checkpoint.keep"):
        check_free_space(workdir, 100, keep=2)  # two, the best, and the one being written
    assert asked == [tmp_path]
    check_free_space(workdir, 87, keep=2)


def test_checkpoints_that_are_there_need_no_more_room(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=150))
    for step in range(8):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    check_free_space(tmp_path, 100, keep=2)  # room to write one before another is deleted
    with pytest.raises(UserError, match="0 MB free"):
        check_free_space(tmp_path, 151, keep=2)


def test_a_second_process_is_refused(tmp_path):
    config, workdir = default_config(), tmp_path / "run"
    with (
        claimed_workdir(workdir, config),
        pytest.raises(UserError, match=f"another process .* --workdir {workdir}"),
        claimed_workdir(workdir, config),
    ):
        pass
    with claimed_workdir(workdir, config):  # the first has ended
        assert (workdir / "config.json").exists()


def test_a_write_that_fails_is_one_line(tmp_path):
    with (
        pytest.raises(UserError, match=f"cannot write to --workdir {tmp_path}: No space left"),
        claimed_workdir(tmp_path, default_config()),
    ):
        raise OSError(28, "No space left on device")


ROWS = [
    {"step": 0, "eval": {"mAP": 0.25, "mAP-hard": float("nan")}},
    {"step": 1, "loss": 0.5},
    {"step": 2, "loss": 0.25, "eval": {"mAP": 0.5}},
]


def written(folder, rows=ROWS):
    """Writes the log of a run; returns its rows as a checkpoint has them."""
    with MetricsLog(folder, None) as metrics:
        for row in rows:
            metrics.write(row)
        return list(metrics.rows)


def test_the_log_is_continued_where_the_checkpoint_was(tmp_path, caplog):
    kept = written(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 0.1}\n{"step": 4, "lo')  # killed after the checkpoint
    with MetricsLog(tmp_path, 2, kept) as metrics:
        assert json.dumps(metrics.rows) == json.dumps(ROWS)
        assert metrics.evaluation(2) == {"mAP": 0.5}
        metrics.write({"step": 3, "loss": 0.125})
    steps = [json.loads(x)["step"] for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 3]
    assert not caplog.text


def test_tensorboard_gets_every_number(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    kept = written(tmp_path)
    with MetricsLog(tmp_path, 1, kept[:2]) as metrics:
        metrics.write({"step": 2, "loss": 0.125})
    found = []
    for file in sorted((tmp_path / "tensorboard").iterdir(), key=lambda f: f.stat().st_mtime_ns):
        data = file.read_bytes()
        while data:  # its length, a checksum, an event, a checksum
            size = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            if event.session_log.status:
                found.append((event.step, "resumed", event.session_log.status))
    numbers = [each for each in found if each[1] != "eval/mAP-hard"]
    assert numbers == [
        (0, "resumed", 1), (0, "eval/mAP", 0.25), (1, "train/loss", 0.5), (2, "train/loss", 0.25),
        (2, "eval/mAP", 0.5), (2, "resumed", 1), (2, "train/loss", 0.125),
    ]  # fmt: skip


DAMAGE = {
    "5": "line 2: '5' is not a row",
    "{}": "line 2: '{}' is not a row",
    "null": "line 2: 'null' is not a row",
    '{"step": 1, "lo': "line 2: .* is not a row",
    '{"step": "1"}': "line 2: .* is not a row",
    '{"step": 1, "loss": "x"}': "line 2: .* is not a row",
    "[" * 100_000: r"line 2: '\[.*…",
    "\udcff": "not UTF-8",
}


@pytest.mark.parametrize("line", DAMAGE)
def test_damaged_rows_are_named_and_come_from_the_checkpoint(line, tmp_path, caplog):
    kept = written(tmp_path)
    file = tmp_path / "metrics.jsonl"
    rows = file.read_text().splitlines()
    file.write_text("\n".join([rows[0], line, rows[2], ""]), errors="surrogateescape")
    with pytest.raises(UserError, match=DAMAGE[line]) as refused:
        MetricsLog(tmp_path, 2)  # a checkpoint of dir_jax 0.1.0 does not have them
    assert len(str(refused.value)) < 600
    with MetricsLog(tmp_path, 2, kept) as metrics:
        assert json.dumps(metrics.rows) == json.dumps(ROWS)
    assert re.search(DAMAGE[line], caplog.text)
    assert file.read_text().splitlines() == rows


@pytest.mark.parametrize("damage", ["lost", "empty", "first row lost", "another number"])
def test_a_log_that_lost_its_beginning(damage, tmp_path, caplog):
    kept = written(tmp_path)
    file = tmp_path / "metrics.jsonl"
    rows = file.read_text()
    if damage == "lost":
        file.unlink()
    else:
        first = {
            "first row lost": rows.split("\n", 1)[1],
            "another number": rows.replace("25", "7"),
        }
        file.write_text(first.get(damage, ""))
    if damage != "another number":
        with pytest.raises(UserError, match=r"metrics\.jsonl .*(lacks the evaluation|cannot be)"):
            MetricsLog(tmp_path, 2)
    with MetricsLog(tmp_path, 2, kept) as metrics:
        assert metrics.rows[0]["eval"]["mAP"] == 0.25
    assert "written again from the checkpoint" in caplog.text
    assert file.read_text() == rows


@pytest.mark.parametrize("text", ["[]", "5", "null", "{", "[" * 100_000, '{"loss": {}}', "\udcff"])
def test_a_config_that_is_not_one(text, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(text, errors="surrogateescape")
    with pytest.raises(UserError) as refused, claimed_workdir(tmp_path, default_config()):
        pass
    assert "another --workdir" in str(refused.value)
    assert len(str(refused.value)) < 600
    assert file.read_text(errors="surrogateescape") == text


@pytest.mark.parametrize("place", ["metrics.jsonl", "tensorboard"])
def test_a_log_on_a_full_disk(place, tmp_path):
    """A limit on the size of files stands for it; in a process of its own."""
    code = f"""
import resource
from pathlib import Path
from dir_jax.errors import UserError
from dir_jax.training.config import default_config
from dir_jax.training.workdir import MetricsLog, claimed_workdir
row = {{"step": 1, **({{"loss": {{}}}} if {place!r} == "metrics.jsonl" else {{"x": 1e-300}})}}
try:
    with claimed_workdir(Path("."), default_config()), MetricsLog(Path("."), None) as metrics:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
        while True:
            metrics.write(row)
except UserError as e:
    print(e)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout == "cannot write to --workdir .: File too large\n"
    assert (done.returncode, done.stderr) == (0, "")
