"""The training command as a user meets it: results, resuming after a kill, and its errors."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

import dir_jax
from dir_jax import extract_features, test_dir, whiten
from dir_jax.loading import load_model
from dir_jax.models.variables import split_variables
from dir_jax.retrieval.metrics import evaluate_labelled

ROOT = Path(__file__).resolve().parents[2]


def environment():
    return {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}


def final_arrays(workdir):
    _, params, stats = split_variables(load_model(workdir / "model").model)
    return {k: np.asarray(v) for k, v in {**params, **stats}.items()}


def assert_bit_equal(a, b):
    assert a.keys() == b.keys()
    different = [k for k in a if not np.array_equal(a[k], b[k])]
    assert not different


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Filled by the first test that needs a run nobody disturbed."""
    return tmp_path_factory.mktemp("unbroken") / "run"


@pytest.fixture
def finished(unbroken, run_train):
    """The directory of a complete run of the tiny config."""
    if not (unbroken / "summary.json").exists():
        done = run_train(unbroken)
        assert done.returncode == 0, done.stderr
    return unbroken


def test_results_are_written(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert 0 < summary["before"]["mAP"] <= 1
    assert 0 < summary["after"]["mAP"] <= 1
    assert 0 < summary["after_whitened"]["mAP"] <= 1
    assert summary["steps"] == 6
    assert summary["images_seen"] == 48
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(7))
    assert [row["step"] for row in rows if "eval" in row] == [0, 3, 6]
    assert all(0 <= row["loss"] <= 1 for row in rows[1:])
    assert rows[1]["learning_rate"] == pytest.approx(1e-3)
    assert rows[-1]["learning_rate"] == pytest.approx(1e-3 / 6)
    for picture in ("curves.png", "ranked.png"):
        assert (finished / picture).read_bytes().startswith(b"\x89PNG")
    assert list((finished / "tensorboard").glob("events*"))
    checkpoint = load_model(finished)
    assert checkpoint.description["model"]["arch"] == "resnet18_rmac"
    assert list(checkpoint.whitenings) == ["train"]
    kept = {int(p.name) for p in (finished / "checkpoints").glob("[0-9]*")}
    assert {5, 6} <= kept  # the newest two, and the best if it is another
    assert len(kept) <= 3


def test_the_model_is_used_as_it_was_evaluated(finished, tiny_data, capsys, monkeypatch, tmp_path):
    """Without a flag, every way to use the model gives the summary's whitened numbers."""
    expected = json.loads((finished / "summary.json").read_text())["after_whitened"]
    dataset = f'ImageListLabels("{tiny_data}/test.txt", "{tiny_data}")'
    model = dir_jax.load(finished)
    assert repr(model).endswith("; CenterCrop(40); whitening 'train', power 0.25>")
    assert dir_jax.evaluate(dataset, model) == pytest.approx(expected, abs=1e-6)
    rows = [row.split() for row in (tiny_data / "test.txt").read_text().splitlines()]
    descriptors = model.extract([tiny_data / name for name, _ in rows])
    _, labels = np.unique([label for _, label in rows], return_inverse=True)
    assert evaluate_labelled(descriptors, labels).mAP == pytest.approx(expected["mAP"], abs=1e-6)

    def run(module, *flags):
        monkeypatch.setattr("sys.argv", [module.__name__, "--dataset", dataset, *map(str, flags)])
        assert module.main() == 0
        return capsys.readouterr().out

    run(extract_features, "--checkpoint", finished, "--output", tmp_path / "x.npy")
    for flags in (["--checkpoint", finished], ["--load-feats", tmp_path / "x.npy"]):
        out = run(test_dir, *flags, "--out-json", tmp_path / "r.json")
        found = json.loads((tmp_path / "r.json").read_text())[dataset]
        assert {k: found[k] for k in expected} == pytest.approx(expected, abs=1e-6)
        assert "Descriptors: CenterCrop(40); whitening 'train', power 0.25" in out
    run(test_dir, "--checkpoint", finished, "--whiten", "", "--out-json", tmp_path / "r.json")
    plain = json.loads((finished / "summary.json").read_text())["after"]
    found = json.loads((tmp_path / "r.json").read_text())[dataset]
    assert {k: found[k] for k in plain} == pytest.approx(plain, abs=1e-6)

    # The whitening, learned again from the images of the run, is the one that it ended with.
    dataset = f'ImageListLabels("{tiny_data}/train.txt", "{tiny_data}")'
    run(whiten, "--checkpoint", finished, "--name", "again", "--output", tmp_path / "net")
    again = dir_jax.load(tmp_path / "net").checkpoint.whitening("again").to_arrays()
    for name, array in model.checkpoint.whitening("train").to_arrays().items():
        np.testing.assert_allclose(again[name], array, atol=1e-4)


def test_same_command_again_changes_nothing(finished, run_train):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}
    again = run_train(finished)
    assert again.returncode == 0
    assert "complete" in again.stderr
    changed = [p.name for p, t in before.items() if p.stat().st_mtime_ns != t]
    assert set(changed) <= {".lock", "config.json", "metrics.jsonl"}


def test_a_finished_run_is_lengthened(finished, run_train, tmp_path):
    workdir = tmp_path / "longer"
    shutil.copytree(finished, workdir)
    done = run_train(workdir, "--config.num_steps=8")
    assert done.returncode == 0, done.stderr
    assert "lengthened from 6 to 8 steps" in done.stderr
    assert "resumed after step 6" in done.stderr  # in the first paragraph
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(9))
    assert rows[7]["learning_rate"] == pytest.approx(1e-3 * 2 / 8)  # after six of eight
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["steps"] == 8
    earlier = json.loads((finished / "summary.json").read_text())
    assert summary["before"] == earlier["before"]
    assert json.loads((workdir / "summary-6-steps.json").read_text()) == earlier
    assert run_train(workdir, "--config.num_steps=6").returncode == 2


def test_deterministic_from_the_seed(finished, run_train, tmp_path):
    assert run_train(tmp_path / "again").returncode == 0
    assert_bit_equal(final_arrays(tmp_path / "again"), final_arrays(finished))
    assert run_train(tmp_path / "other", "--config.seed=1").returncode == 0
    other = final_arrays(tmp_path / "other")
    assert not np.array_equal(other["fc.kernel"], final_arrays(finished)["fc.kernel"])


def test_killed_and_resumed_is_bit_equal(finished, train_command, run_train, tmp_path):
    """kill -9 of a real process, at random moments, until a run gets through."""
    workdir = tmp_path / "killed"
    moments = random.Random(0)
    kills = 0
    for _ in range(3):
        process = subprocess.Popen(
            train_command(workdir), cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL
        )
        before = newest_step(workdir)
        deadline = time.monotonic() + 120
        # Wait for progress, so that the kill falls into training, then a random moment more.
        while newest_step(workdir) == before and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.6))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 1
    done = run_train(workdir)
    assert done.returncode == 0, done.stderr
    assert_bit_equal(final_arrays(workdir), final_arrays(finished))
    steps = [json.loads(x)["step"] for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(7))


def newest_step(workdir):
    return max(
        (int(p.name) for p in workdir.glob("checkpoints/[0-9]*") if p.name.isdigit()), default=0
    )


def test_changed_images_stop_a_resumed_run_and_a_lost_log_does_not(
    finished, run_train, tiny_data, tmp_path
):
    workdir = tmp_path / "broken off"
    shutil.copytree(finished, workdir)
    (workdir / "summary.json").unlink()
    shutil.rmtree(workdir / "model")
    shutil.rmtree(workdir / "checkpoints" / "6")
    (workdir / "metrics.jsonl").unlink()
    image = tiny_data / "b2.jpg"
    before = image.stat()
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    refused = run_train(workdir)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert refused.returncode == 2
    assert (
        f"config.data.train have another size or modification time, such as row 7 ({image}"
        in (refused.stderr.splitlines()[-1])
    )
    assert not (workdir / "metrics.jsonl").exists()
    done = run_train(workdir)
    assert done.returncode == 0, done.stderr
    assert "written again from the checkpoint" in done.stderr
    assert_bit_equal(final_arrays(workdir), final_arrays(finished))
    summaries = [json.loads((run / "summary.json").read_text()) for run in (workdir, finished)]
    assert summaries[0] == summaries[1]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGINT, 130)]
)
def test_signals_save_and_the_run_resumes_bit_equal(
    number, code, finished, train_command, run_train, tmp_path
):
    workdir = tmp_path / "stopped"
    process = subprocess.Popen(
        train_command(workdir, "--config.checkpoint.every=1000"),
        cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    metrics = workdir / "metrics.jsonl"
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 3):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    for _ in range(3):
        process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert "the same command resumes" in errors
    assert "Traceback" not in errors
    assert newest_step(workdir) >= 2
    if number != signal.SIGTERM:  # all of them save by the same lines
        return
    assert run_train(workdir, "--config.checkpoint.every=1000").returncode == 0
    assert_bit_equal(final_arrays(workdir), final_arrays(finished))


_MINED = (
    "--config.sampler.name=mined", "--config.loss.name=triplet", "--config.batch_size=6",
    "--config.chunk_size=3", "--config.mining.refresh_every=4", "--config.mining.negatives=3",
)  # fmt: skip


@pytest.mark.parametrize(
    "flags", [_MINED, ("--config.loss.name=arcface",)], ids=["mined", "arcface"]
)
def test_what_is_saved_beside_the_model_resumes_bit_equal(run_train, tmp_path, flags):
    """Mined triplets; class weights, without which the next steps would go elsewhere."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = run_train(whole, *flags)
    assert done.returncode == 0, done.stderr
    shutil.copytree(whole, broken)
    shutil.rmtree(broken / "model")
    (broken / "summary.json").unlink()
    for step in (broken / "checkpoints").glob("[0-9]*"):
        if int(step.name) > 5:  # as if killed after step 5, between the refreshes of 4 and 8
            shutil.rmtree(step)
    assert run_train(broken, *flags).returncode == 0
    assert_bit_equal(final_arrays(broken), final_arrays(whole))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config=nowhere.py"], ["nowhere.py"]),
        (["--config.nothing=1"], ["nothing"]),
        (["--config.batch_size=many"], ["batch_size"]),
        (["--config.model.arch=resnet19_rmac"], ["resnet19_rmac", "resnet18_rmac"]),
        (["--config.loss.name=app"], ["loss.name", "tie_aware_ap"]),
        (["--config.data.transform=Skale(3)"], ["Skale", "Scale", "data.transform"]),
        (["--config.data.transform=RandomCrop(100)"], ["RandomCrop(100)", "56"]),
        (["--config.data.transform=RandomScale(40, 60, can_upscale=True)"], ["one size"]),
        (["--config.data.train=Nothing('a')"], ["Nothing", "ImageListLabels"]),
        (["--config.data.train=ImageListLabels('no.txt')"], ["no.txt"]),
        (["--config.data.train=tfds:no_such_set"], ["no_such_set"]),
        (["--config.data.train="], ["config.data.train"]),
        (["--config.sampler.name=mined"], ["triplet"]),
        (["--workdir="], ["--workdir"]),
        (["--no_such_flag=1"], ["--no-such-flag"]),
        (["stray"], ["stray"]),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(flags, words, run_here, tmp_path):
    workdir = tmp_path / "run"
    done = run_here(workdir, *flags)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert not workdir.exists()


def test_bad_lists_are_named(run_here, tiny_data, tmp_path):
    cases = {
        "empty": ("", "empty"),
        "unlabelled": ("a0.jpg a\nb0.jpg\n", "2"),
        "missing": ("a0.jpg a\nnowhere.jpg a\nb0.jpg b\n", "nowhere.jpg"),
        "unreadable": ("a0.jpg a\ntrain.txt a\nb0.jpg b\n", "train.txt"),
        "single": ("a0.jpg a\nb0.jpg b\nc0.jpg c\n", "two images"),
    }
    for name, (text, word) in cases.items():
        rows = tmp_path / f"{name}.txt"
        rows.write_text(text)
        done = run_here(
            tmp_path / "run", f'--config.data.train=ImageListLabels("{rows}", "{tiny_data}")'
        )
        assert done.returncode == 2, (name, done.stderr)
        assert word in done.stderr.splitlines()[-1], (name, done.stderr)
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "run").exists()


def test_config_that_lacks_a_key(run_here, tiny_config, tmp_path):
    text = tiny_config.read_text().replace(
        "    return config", "    del config.loss\n    return config"
    )
    broken = tmp_path / "broken.py"
    broken.write_text(text)
    done = run_here(tmp_path / "run", config=broken)
    assert done.returncode == 2
    assert "config.loss.num_bins" in done.stderr
    assert not (tmp_path / "run").exists()


def test_workdir_of_another_config_is_refused(finished, run_here):
    done = run_here(finished, "--config.loss.num_bins=5")
    assert done.returncode == 2
    assert "config.loss.num_bins" in done.stderr
    assert "another --workdir" in done.stderr


def test_workdir_that_cannot_be_written(run_here, tmp_path):
    (tmp_path / "file").write_text("")
    done = run_here(tmp_path / "file" / "run")
    assert done.returncode == 2
    assert "--workdir" in done.stderr
    assert "Traceback" not in done.stderr


def test_loss_that_is_no_longer_finite_stops_the_run(run_train, tmp_path):
    done = run_train(tmp_path / "run", "--config.optimizer.learning_rate=1e9")
    assert done.returncode == 2
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: ")
    assert "not finite" in error
    for step in (tmp_path / "run" / "checkpoints").glob("[0-9]*"):
        assert f"the last good checkpoint is {step}" in error
        _, params, stats = split_variables(load_model(step).model)
        assert all(np.isfinite(x).all() for x in (*params.values(), *stats.values()))
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "summary.json").exists()
