"""extract_features: what it writes, what a real folder holds, and runs that are killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

import dir_jax
from dir_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def image_list(folder, name="names.txt"):
    return f'ImageList("{folder}/{name}", "{folder}")'


def test_numpy_and_hdf5_files(run, model, photos, tmp_path):
    flags = ["--dataset", image_list(photos), "--checkpoint", model]
    for output in ("a.npy", "b.h5", "no_suffix"):
        code, out, _ = run("extract_features", *flags, "--output", tmp_path / output)
        assert code == 0
        assert "24 images" in out
    found = np.load(tmp_path / "a.npy")
    assert (found.shape, found.dtype) == ((24, 8), np.float32)
    expected = dir_jax.load(model).extract([photos / f"{i}.png" for i in range(24)])
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.load(tmp_path / "no_suffix.npy"), expected)
    with h5py.File(tmp_path / "b.h5") as file:  # as hloc reads it
        assert set(file) == {f"{i}.png" for i in range(24)}
        for i in range(24):
            np.testing.assert_array_equal(file[f"{i}.png"]["global_descriptor"][()], found[i])
    files = ["a.npy", "b.h5", "no_suffix.npy"]
    files += [f"{name}.recipe.json" for name in files]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(files)


def test_queries_have_a_file_of_their_own(run, model, photos, tmp_path):
    (photos / "queries.txt").write_text("3.png class3\n5.png class5\n")
    dataset = f'ImageListLabelsQ("{photos}/labels.txt", "{photos}/queries.txt", "{photos}")'
    output = tmp_path / "new folder" / "x.npy"
    code, *_ = run("extract_features", "--dataset", dataset, "--checkpoint", model,
                   "--output", output, "--whiten", "set", "--trfs", "", "Scale(0.5)")  # fmt: skip
    assert code == 0
    files = [f"x.{kind}.npy{end}" for kind in ("dbdescs", "qdescs") for end in ("", ".recipe.json")]
    assert sorted(p.name for p in output.parent.iterdir()) == files
    options = {"trfs": ["", "Scale(0.5)"], "whiten": "set"}
    expected = dir_jax.load(model).extract([photos / f"{i}.png" for i in range(24)], **options)
    for file, rows in (("x.dbdescs.npy", range(24)), ("x.qdescs.npy", (3, 5))):
        # The queries' batches are not those of the database: another order of sums, which
        # whitening with these few descriptors magnifies a little.
        np.testing.assert_allclose(
            np.load(output.parent / file), expected[list(rows)], rtol=0, atol=5e-6
        )


@pytest.fixture
def real_folder(tmp_path):
    """What people have: good files of every mode, and bad ones; (folder, names, bad names)."""
    folder = tmp_path / "real folder"
    (folder / "directory.jpg").mkdir(parents=True)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, 80, 3), np.uint8)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x112] = 6  # to be turned, which is ignored
    image.save(folder / "exif.jpg", exif=exif)
    image.save(folder / "plain.jpg")
    image.convert("L").save(folder / "gray.png")
    image.convert("P").save(folder / "palette.png")
    image.convert("RGBA").save(folder / "rgba.png")
    image.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 256).save(folder / "16 bit.png")
    image.save(folder / "ü, 日本 and spaces.png")
    Image.fromarray(rng.integers(0, 256, (12, 30_000, 3), np.uint8)).save(folder / "panorama.png")
    Image.new("RGB", (1, 1), (200, 3, 50)).save(folder / "one.png")
    content = (folder / "plain.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(content[: len(content) // 2])
    (folder / "zero.jpg").touch()
    (folder / "text.jpg").write_text("I am no picture")
    Image.new("RGB", (9000, 5000)).save(folder / "enormous.png")
    bad = ["truncated.jpg", "zero.jpg", "text.jpg", "directory.jpg", "enormous.png", "gone.jpg"]
    good = [p.name for p in sorted(folder.iterdir()) if p.name not in bad]
    names = [*good[:4], *bad[:3], *good[4:], good[0], *bad[3:]]
    (folder / "names.txt").write_text("\n".join(names) + "\n")
    return folder, names, bad


def test_a_real_folder_with_skip(run, model, real_folder, tmp_path):
    folder, names, bad = real_folder
    flags = ["--dataset", image_list(folder), "--checkpoint", model, "--on-error", "skip"]
    code, out, _ = run("extract_features", *flags, "--output", tmp_path / "x.npy")
    assert code == 0
    assert f"{len(names)} images, 6 of them without: see {tmp_path}/x.npy.failed.txt" in out
    found = np.load(tmp_path / "x.npy")
    without = [name in bad for name in names]
    np.testing.assert_array_equal(np.isnan(found), np.repeat([without], 8, 0).T)
    np.testing.assert_array_equal(found[names.index("16 bit.png")], found[-4])  # a duplicate
    rows = (tmp_path / "x.npy.failed.txt").read_text().splitlines()
    assert [row.split("\t")[0] for row in rows] == [name for name in names if name in bad]
    single = dir_jax.load(model)
    for i, name in enumerate(names):
        if name not in bad:  # as Pillow's own conversion has it, which makes 16 bits white
            picture = Image.open(folder / name)
            if name == "16 bit.png":
                picture = Image.fromarray((np.asarray(picture) / 257 + 0.5).astype(np.uint8))
            alone = single.extract([picture.convert("RGB")])[0]
            np.testing.assert_allclose(found[i], alone, rtol=0, atol=2e-6)
    code, *_ = run("extract_features", *flags, "--output", tmp_path / "x.h5")
    assert code == 0
    with h5py.File(tmp_path / "x.h5") as file:
        assert set(file) == set(names) - set(bad)


@pytest.mark.parametrize("bad", range(6))
def test_a_real_folder_stops_at_an_image_and_names_it(run, model, real_folder, tmp_path, bad):
    folder, names, bad_names = real_folder
    some = [name for name in names if name not in bad_names][:2]
    (folder / "names.txt").write_text("\n".join([*some, bad_names[bad]]) + "\n")
    code, _, err = run("extract_features", "--dataset", image_list(folder),
                         "--checkpoint", model, "--output", tmp_path / "x.npy")  # fmt: skip
    assert code == 2
    assert err.startswith("error: ")
    assert bad_names[bad] in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "x.npy").exists()


def test_no_image_can_be_used(run, model, photos, tmp_path):
    (photos / "bad.txt").write_text("no.png\nnone.png\n")
    code, _, err = run("extract_features", "--dataset", image_list(photos, "bad.txt"),
                       "--checkpoint", model, "--output", tmp_path / "x.npy",
                       "--on-error", "skip")  # fmt: skip
    assert code == 2
    assert "none of the 2 images" in err


# Runs the command with a pause after each image, and marks on disk after each.
DRIVER = """
import sys, time
from dir_jax import extract_features
from dir_jax.describe import extractor, resume
from dir_jax.commands.running import run_parsed
resume._SECONDS_BETWEEN_SYNCS = 0
extractor._PIXELS_CPU = 1
write = resume.StoredSink.write
def slowly(self, *args):
    write(self, *args)
    print("batch", args[0], flush=True)
    time.sleep(0.03)
resume.StoredSink.write = slowly
sys.exit(run_parsed(extract_features._parser(), extract_features._main))
"""


@pytest.fixture
def start(model, photos, tmp_path):
    """Starts the slow command in a process of its own; `start(output)`."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment |= {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def call(output, before=""):
        command = [sys.executable, "-c", before + DRIVER, "--dataset", image_list(photos),
                   "--checkpoint", str(model), "--output", str(output)]  # fmt: skip
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return call


def described(process):
    """The batches that a process has described, to its end."""
    out, _ = process.communicate(timeout=120)
    return [line for line in out.splitlines() if line.startswith("batch") and line != "batch -1"]


@pytest.mark.parametrize("suffix", [".npy", ".h5"])
def test_killed_at_any_moment_the_file_is_the_same(start, tmp_path, suffix):
    whole = start(tmp_path / f"whole{suffix}")
    assert len(described(whole)) == 24
    output, done = tmp_path / f"killed{suffix}", []
    moment = random.Random(suffix)
    for _ in range(4):
        process = start(output)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("batch") and line != "batch -1\n":
                break
        time.sleep(moment.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        done += [line.strip(), *described(process)]
        assert not output.exists()
    last = start(output)
    done += described(last)
    assert last.returncode == 0
    # A kill costs at most what was being written: nothing that was marked is described again.
    assert 24 <= len(done) <= 24 + 4
    assert output.read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    assert not list(tmp_path.glob("killed*.partial"))


def test_ctrl_c_and_going_on(start, tmp_path):
    process = start(tmp_path / "x.npy")
    assert process.stdout is not None
    while not process.stdout.readline().startswith("batch 2"):
        pass
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    identity = json.loads((tmp_path / "x.npy.partial" / "identity.json").read_text())
    assert identity["model"]["arch"] == "resnet18_rmac"
    second = start(tmp_path / "x.npy")
    assert len(described(second)) < 24
    assert np.isfinite(np.load(tmp_path / "x.npy")).all()


def test_a_full_disk(start, tmp_path):
    """Files may have 20,000 bytes: the descriptors fit, but not the HDF5 file."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
    process = start(tmp_path / "x.h5", limit)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    assert err.splitlines()[-1] == f"error: cannot write {tmp_path}/x.h5: File too large"
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.glob("*x.h5*")) == ["x.h5.partial"]
    process = start(tmp_path / "x.h5")
    assert described(process) == []
    assert process.returncode == 0
    with h5py.File(tmp_path / "x.h5") as file:
        assert len(file) == 24
    assert not (tmp_path / "x.h5.partial").exists()


def test_an_output_that_is_there_already(run, model, photos, tmp_path):
    flags = ["--dataset", image_list(photos), "--checkpoint", model, "--trfs", "Scale((32, 32))"]
    files = [tmp_path / "x.npy", tmp_path / "x.h5"]
    for file, way in zip(
        files, ("--overwrite replaces it\n", "--append adds to it\n"), strict=True
    ):
        file.write_text("mine")
        code, _, err = run("extract_features", *flags, "--output", file)
        assert code == 2
        assert f"{file} exists already; --overwrite replaces it" in err
        assert err.endswith(way)
        assert file.read_text() == "mine"
    assert run("extract_features", *flags, "--output", files[0], "--append")[0] == 2
    assert run("extract_features", *flags, "--output", files[0], "--overwrite")[0] == 0
    assert np.load(files[0]).shape == (24, 8)
    code, _, err = run("extract_features", *flags, "--output", files[1], "--append")
    assert (code, files[1].read_text()) == (2, "mine")
    assert "x.h5 cannot be added to: " in err


def test_database_and_queries_in_one_file(run, model, photos, tmp_path):
    output = tmp_path / "x.h5"
    flags = ["--checkpoint", model, "--output", output, "--append", "--trfs", "Scale((32, 32))"]
    for name, rows in (("a.txt", range(3)), ("b.txt", range(3, 5))):
        (photos / name).write_text("".join(f"{i}.png\n" for i in rows))
        code, _, err = run("extract_features", "--dataset", image_list(photos, name), *flags)
        assert code == 0, err
    with h5py.File(output) as file:
        assert set(file) == {f"{i}.png" for i in range(5)}
    code, _, err = run("extract_features", "--dataset", image_list(photos, "b.txt"), *flags)
    assert code == 2
    assert "already has 2 of these images, such as 3.png" in err
    (photos / "c.txt").write_text("5.png\n")
    more = ["--dataset", image_list(photos, "c.txt"), *flags, "--center-bias", "1"]
    code, _, err = run("extract_features", *more)  # the same recipe, but not the same model
    assert (code, "x.h5 has descriptors of another model" in err) == (2, True), err


@pytest.fixture
def stopped(run, model, photos, tmp_path, monkeypatch):
    """Runs a command that is stopped before it writes its output; `again() -> result`."""
    folder = tmp_path / "three"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.png").write_bytes((photos / f"{i}.png").read_bytes())
    (folder / "names.txt").write_text("0.png\n1.png\n2.png\n")
    flags = ["--dataset", image_list(folder), "--checkpoint", model,
             "--output", tmp_path / "x.npy", "--trfs", "Scale((32, 32))"]  # fmt: skip

    def stop(*args, **options):
        raise UserError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr("dir_jax.describe.feature_files.save_descriptors", stop)
        assert run("extract_features", *flags)[0] == 2
    return folder, lambda: run("extract_features", *flags)


def test_another_list_or_image_does_not_go_on(stopped, tmp_path):
    folder, again = stopped
    names = (folder / "names.txt").read_text()
    (folder / "names.txt").write_text("1.png\n0.png\n2.png\n")
    code, _, err = again()
    assert code == 2
    assert f"differs in images (number 1 is now {folder}/1.png, number 2 is now" in err
    (folder / "names.txt").write_text(names)
    other = np.random.default_rng(1).integers(0, 256, Image.open(folder / "1.png").size, np.uint8)
    Image.fromarray(other.T).convert("RGB").save(folder / "1.png")
    code, _, err = again()
    assert code == 2
    assert f"differs in images ({folder}/1.png has been replaced); finish it" in err
    assert not (tmp_path / "x.npy").exists()


def test_an_output_of_the_run_that_goes_on(stopped, tmp_path):
    """As after a kill between the two files of a data set with queries."""
    _, again = stopped
    (tmp_path / "x.npy").touch()
    assert again()[0] == 0
    assert np.load(tmp_path / "x.npy").shape == (3, 8)


def test_exif_is_a_part_of_the_recipe(run, model, tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "stored.png", exif=exif)
    Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_270).save(tmp_path / "seen.png")
    rows = []
    for name, flags in (("stored", ["--exif"]), ("seen", []), ("stored", [])):
        (tmp_path / "list.txt").write_text(f"{name}.png\n")
        code, out, _ = run("extract_features", "--dataset", f"ImageList('{tmp_path}/list.txt', "
                           f"'{tmp_path}')", "--checkpoint", model, "--overwrite",
                           "--output", tmp_path / "x.npy", *flags)  # fmt: skip
        assert code == 0
        recipe = json.loads((tmp_path / "x.npy.recipe.json").read_text())
        assert recipe["exif"] == ("turned by EXIF" in out) == bool(flags)
        rows.append(np.load(tmp_path / "x.npy"))
    np.testing.assert_array_equal(rows[0], rows[1])
    assert not np.array_equal(rows[0], rows[2])
