"""extract_features --shards: the bytes of one run, whatever divides, stops or kills it."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import dir_jax
from dir_jax import extract_features
from dir_jax.describe.sharded_files import open_descriptors
from dir_jax.errors import UserError

SCALES = ("--trfs", "", "Scale(0.5)", "--whiten", "set")


def flags(model, photos, output, *more):
    dataset = f'ImageList("{photos}/names.txt", "{photos}")'
    return ["--dataset", dataset, "--checkpoint", model, "--output", output, *more]


@pytest.fixture(scope="module")
def whole(model, photos):
    """The descriptors of one run over all the images, at two scales and whitened."""
    names = [photos / f"{i}.png" for i in range(24)]
    return dir_jax.load(model).extract(names, trfs=["", "Scale(0.5)"], whiten="set")


def test_shards_have_the_bytes_of_one_run(run, model, photos, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    sharded = flags(model, photos, out, *SCALES, "--shards", 5)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    code, said, _ = run("extract_features", *sharded)
    assert (code, said.splitlines()[-1]) == (0, f"wrote {out}/00003: 5 images")
    with pytest.raises(UserError, match=r"4 of 5 shards are missing \(0, 1, 2, 4\)"):
        open_descriptors(out)
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    assert run("extract_features", *sharded, "--shard", "1")[0] == 0
    assert sorted(path.name for path in out.glob("0*")) == ["00001", "00003"]
    monkeypatch.delenv("JOB_COMPLETION_INDEX")
    code, said, _ = run("extract_features", *sharded)
    assert said.count("wrote") == 3
    assert "2 of 5 shards are finished already" in said
    assert sorted(p.name for p in out.iterdir() if p.suffix != ".lock") == [
        *(f"{i:05}" for i in range(5)), "manifest.json"]  # fmt: skip
    found = dir_jax.open_descriptors(out)
    np.testing.assert_array_equal(np.asarray(found.rows), whole)
    assert list(found.names) == [f"{i}.png" for i in range(24)]
    assert (len(found), found.failures, found.recipe.trfs) == (24, {}, ("", "Scale(0.5)"))
    assert found.names[-1] == found.names[20:][-1] == "23.png"
    for which in (
        0,
        -1,
        slice(3, 17),
        slice(9, 9),
        slice(20, None, 2),
        [5, 1, -3],
        whole[:, 0] > 0,
    ):
        np.testing.assert_array_equal(found.rows[which], whole[which])


def test_whitening_is_learned_from_shards(run, model, photos, tmp_path):
    flags_of = flags(model, photos, tmp_path / "out")
    assert run("extract_features", *flags_of, "--shards", 3, "--whiten", "")[0] == 0
    for method in ("pca", "pairs"):
        given = ["--dataset", f'ImageListLabels("{photos}/labels.txt", "{photos}")', "--method",
                 method, "--name", "new", "--checkpoint", model]  # fmt: skip
        learned = []
        for more in ([], ["--load-feats", tmp_path / "out"]):
            code, _, error = run(
                "whiten", *given, *more, "--output", tmp_path / f"{method}{len(more)}"
            )
            assert code == 0, error
            learned.append(
                dir_jax.load(tmp_path / f"{method}{len(more)}").checkpoint.whitening("new")
            )
        np.testing.assert_array_equal(learned[0].components_, learned[1].components_)
    whitened = tmp_path / "whitened"
    sharded = flags(model, photos, whitened, "--shards", 1, "--whiten", "set")
    assert run("extract_features", *sharded)[0] == 0
    code, _, error = run("whiten", *given, "--load-feats", whitened, "--output", tmp_path / "x")
    assert (code, "has whitened descriptors" in error) == (2, True), error


def test_failures_queries_and_more_shards_than_images(run, model, photos, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("0.png", "1.png", "2.png"):
        os.link(photos / name, folder / name)
    good = (folder / "2.png").read_bytes()
    (folder / "torn.png").write_bytes(good[: len(good) // 2])
    (folder / "db.txt").write_text("0.png a\ntorn.png a\nlost.png b\n1.png b\n")
    (folder / "q.txt").write_text("2.png a\n1.png b\n")
    dataset = f'ImageListLabelsQ("{folder}/db.txt", "{folder}/q.txt", "{folder}")'
    common = ["--dataset", dataset, "--checkpoint", model, "--on-error", "skip", *SCALES]
    assert run("extract_features", *common, "--output", tmp_path / "x.npy")[0] == 0
    code, said, _ = run("extract_features", *common, "--output", tmp_path / "out", "--shards", 9)
    assert (code, said.count("1 could not be described")) == (0, 2)
    found = open_descriptors(tmp_path / "out")
    np.testing.assert_array_equal(found.rows, np.load(tmp_path / "x.dbdescs.npy"))
    np.testing.assert_array_equal(found.queries.rows, np.load(tmp_path / "x.qdescs.npy"))
    assert sorted(found.failures) == [1, 2]
    assert "there is no image file" in found.failures[2]
    assert list(found.queries.names) == ["2.png", "1.png"]
    results = [
        run("test_dir", "--dataset", dataset, "--load-feats", tmp_path / feats)
        for feats in ("x.npy", "out")
    ]
    assert results[0] == results[1]
    assert results[0][0] == 0
    one = dataset.replace("LabelsQ", "Labels").replace(f', "{folder}/q.txt"', "")
    (folder / "db.txt").write_text("0.png a\n2.png a\nlost.png b\n1.png b\n")
    code, _, error = run("test_dir", "--dataset", one, "--load-feats", tmp_path / "out")
    assert code == 2
    assert "images: database row 1 is torn.png, the data set's 2.png" in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--shards", 6], "is divided into 5 shards, not 6; give --shards 5"),
        (["--trfs", "Scale(0.5)"], "differs in transforms, recipe; go on with it"),
        (["--dataset", "ImageList('other.txt')"], "differs in lists; "),
        (["--shard", "5"], "--shard is 5; expected a shard's number, from 0 to 4"),
        (["--shards", "0"], "--shards is 0; expected a number from 1 to"),
        (["--overwrite"], "--overwrite and --append are for files"),
        (["--output", "x.npy"], "--output x.npy is the name of a file"),
        (["--workers", "2"], "--workers is for --engine ray"),
    ],
)
def test_what_does_not_fit_is_refused(
    run, model, photos, tmp_path, monkeypatch, change, message, started
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.txt").write_text(f"{photos}/1.png\n")
    code, _, error = run("extract_features", *started, *change)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


@pytest.fixture(scope="module")
def started(model, photos, tmp_path_factory):
    """The flags of a run of 5 shards, one of which is finished."""
    given = flags(model, photos, tmp_path_factory.mktemp("started") / "out", "--shards", 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["", *map(str, given), "--shard", "0"])
        assert extract_features.main() == 0
    return given


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (b"", "is not JSON"),
        (b"[1]", "expected fields with names"),
        (b'{"shards": 1e9}', "shards is 1000000000.0; expected a number from 1 to"),
        (b'{"shards": 2, "width": 8, "lists": {"x": 1}}', "expected database, and queries"),
        (b'{"shards": 2, "width": 8, "lists": {"database": 1}, "shapes": []}', "expected fields"),
        (b'{"shards": 2, "width": 8, "lists": {"database": {"images": 3, "names": ""}},'
         b' "shapes": [[1, 2, 3]]}', "expected a list of width, height, rows"),
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_one_line(tmp_path, manifest, message):
    (tmp_path / "manifest.json").write_bytes(manifest)
    with pytest.raises(UserError, match=message):
        open_descriptors(tmp_path)


@pytest.mark.parametrize("name", ["database.npy", "database.names.txt"])
def test_a_damaged_shard_is_one_line(tmp_path, started, name):
    out = tmp_path / "out"
    manifest = json.loads((started[5] / "manifest.json").read_text()) | {"shards": 1}
    (out / "00000").mkdir(parents=True)
    (out / "manifest.json").write_text(json.dumps(manifest))
    (out / "00000" / name).write_bytes(b"damaged\n")
    found = open_descriptors(out)
    with pytest.raises(UserError, match=f"{name} is damaged"):
        found.rows[0] if name == "database.npy" else found.names[0]


def test_two_processes_that_are_killed_end_as_one_run(run, model, photos, tmp_path):
    """12 shards by two processes, one or the other killed in the midst of one, and started again;
    two images cannot be read."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for image in photos.glob("*.png"):
        os.link(image, folder / image.name)
    rows = [f"{i}.png\n" for i in range(24)]
    rows[3] = rows[17] = "lost.png\n"
    (folder / "names.txt").write_text("".join(rows))
    common = [*SCALES, "--on-error", "skip"]
    assert run("extract_features", *flags(model, folder, tmp_path / "one.npy", *common))[0] == 0
    given = flags(model, folder, tmp_path / "out", *common, "--shards", 12)
    command = [sys.executable, "-m", "dir_jax.extract_features", *map(str, given)]
    moments = random.Random(0)

    def start():
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, **pipes)

    def under_way():
        return list((tmp_path / "out").glob("00???.partial"))

    processes, deadline, codes = [start(), start()], time.monotonic() + 200, []
    for killed in (0, 1, 0):
        while not under_way():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(moments.random() / 10)
        processes[killed].kill()
        processes[killed].communicate()
        codes.append(processes[killed].returncode)
        processes[killed] = start()
    assert codes[0] == -signal.SIGKILL  # the others, too, unless all was finished in a moment
    for process in processes:
        said, _ = process.communicate(timeout=200)
        assert process.returncode == 0, said
    found = open_descriptors(tmp_path / "out")
    assert np.asarray(found.rows).tobytes() == np.load(tmp_path / "one.npy").tobytes()
    assert sorted(found.failures) == [3, 17]
    assert not under_way()


def test_a_ray_cluster_of_two_workers_one_of_which_dies(model, photos, whole, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'dir_jax[ray]'")
    given = flags(model, photos, tmp_path / "out", *SCALES, "--shards", 12, "--engine", "ray")
    command = [sys.executable, "-m", "dir_jax.extract_features", *map(str, given), "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        while not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.partial")):
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.05)
        workers = descendants(process.pid, "ray::_Worker")
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        said = process.communicate(timeout=200)[0].decode()
    assert process.returncode == 0, said
    assert said.count("wrote") == 12, said
    np.testing.assert_array_equal(np.asarray(open_descriptors(tmp_path / "out").rows), whole)


def descendants(ancestor, name):
    """The processes below another one whose command begins with a name."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
    below = {ancestor}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return [p for p in below if Path(f"/proc/{p}/cmdline").read_text().startswith(name)]
