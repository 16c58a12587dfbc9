"""test_dir: flags, closing lines and files; and what both commands say to bad input."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

import dir_jax
from dir_jax.data.datasets import create_dataset
from dir_jax.errors import UserError
from dir_jax.evaluation import evaluate_descriptors
from dir_jax.model_recipe import Recipe, write_recipe


@pytest.fixture
def labelled(photos):
    return f'ImageListLabels("{photos}/labels.txt", "{photos}")'


@pytest.fixture
def oxford(photos):
    """An Oxford-style ground truth over the pictures, with fractional boxes that leave them."""
    truth = {
        "imlist": [f"{i}.png" for i in range(3, 24)],
        "qimlist": ["0.png", "1.png", "2.png"],
        "gnd": [
            {"bbx": [1.5, 2.5, 30.4, 33.7], "easy": [0, 6], "hard": [9], "junk": [1]},
            {"bbx": [-4.2, 0, 80.0, 35.5], "easy": [], "hard": [4, 5], "junk": []},
            {"bbx": [0, 0, 20, 20], "easy": [7], "hard": [], "junk": [8, 12]},
        ],
    }
    with (photos / "gnd.pkl").open("wb") as file:
        pickle.dump(truth, file)
    return f'ImageListRelevants("{photos}/gnd.pkl", "{photos}", img_dir="")'


def closing_lines(out):
    lines = [line[3:].split(" = ") for line in out.splitlines() if line.startswith(" * ")]
    # On its lines, and nowhere else, recall@K has the original's name.
    assert not any("recall@" in name for name, _ in lines)
    return {name.replace("top", "recall@"): float(value) for name, value in lines}


def test_labelled(run, model, labelled, tmp_path):
    (tmp_path / "r.json").write_text('{"another": {"mAP": 1}}')
    code, out, _ = run("test_dir", "--dataset", labelled, "--checkpoint", model, "--whiten", "",
                       "--out-json", tmp_path / "r.json", "--detailed")  # fmt: skip
    assert code == 0
    results = json.loads((tmp_path / "r.json").read_text())
    assert results["another"] == {"mAP": 1}
    found = results[labelled]
    expected = dir_jax.evaluate(labelled, model)
    assert {k: found[k] for k in expected} == pytest.approx(expected, abs=1e-9)
    assert closing_lines(out) == {k: pytest.approx(v, rel=1e-5) for k, v in expected.items()}
    assert " * top1 = " in out
    assert len(found["APs"]) == len(found["tops"]) == 24
    assert np.mean(found["APs"]) == pytest.approx(found["mAP"])


def test_labelled_with_queries_apart(run, model, photos, tmp_path):
    (tmp_path / "queries.txt").write_text("3.png class3\n5.png class1\n")
    words = f'ImageListLabelsQ("{photos}/labels.txt", "{tmp_path}/queries.txt", "{photos}")'
    code, out, _ = run("test_dir", "--dataset", words, "--checkpoint", model, "--whiten", "")
    assert code == 0
    expected = dir_jax.evaluate(words, model)
    assert closing_lines(out) == {k: pytest.approx(v, rel=1e-5) for k, v in expected.items()}


def test_in_a_process_of_its_own(model, labelled, photos):
    """The command as it is typed."""

    def test_dir(*flags):
        command = [sys.executable, "-m", "dir_jax.test_dir", "--dataset", *map(str, flags)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    found = test_dir(labelled, "--checkpoint", model, "--whiten", "")
    assert found.returncode == 0, found.stderr
    expected = dir_jax.evaluate(labelled, model)
    assert closing_lines(found.stdout) == {
        k: pytest.approx(v, rel=1e-5) for k, v in expected.items()
    }
    bad = test_dir(labelled, "--checkpoint", photos / "labels.txt")
    assert bad.returncode == 2
    assert not closing_lines(bad.stdout)
    assert "Traceback" not in bad.stderr


def test_oxford_style(run, model, oxford, tmp_path):
    flags = ["--dataset", oxford, "--checkpoint", model, "--whiten", "set", "--aqe", 3, 2,
             "--adba", 2, 1, "--trfs", "", "Scale(0.7)"]  # fmt: skip
    code, out, _ = run("test_dir", *flags, "--out-json", tmp_path / "r.json", "--detailed",
                       "--report", tmp_path / "r.html")  # fmt: skip
    assert code == 0
    levels = ("easy", "medium", "hard")
    names = [f"{m}-{v}" for m in ("mAP",) for v in levels]
    assert list(closing_lines(out))[:3] == names
    assert set(closing_lines(out)) == {
        f"{m}-{v}" for m in ("mAP", "mP@1", "mP@5", "mP@10") for v in levels
    }
    found = json.loads((tmp_path / "r.json").read_text())[oxford]
    # Query 1 has no easy images, and query 2 no hard ones.
    assert found["APs-easy"][1] == found["APs-hard"][2] == -1
    assert found["mAP-easy"] == pytest.approx(np.mean([found["APs-easy"][i] for i in (0, 2)]))
    page = (tmp_path / "r.html").read_text()
    assert all(name in page for name in ("0.png", "1.png", "2.png", "data:image/jpeg"))
    expected = dir_jax.evaluate(oxford, model, whiten="set", whitenp=0.25, aqe=(3, 2),
                                adba=(2, 1), trfs=["", "Scale(0.7)"])  # fmt: skip
    assert {k: found[k] for k in expected} == pytest.approx(expected, abs=1e-9)


def test_flags_of_a_whitening_that_is_not_there(run, model, labelled, tmp_path):
    flags = ["--dataset", labelled, "--checkpoint", model, "--threads", 0]
    code, _, err = run("test_dir", *flags, "--whiten", "", "--whitenp", 0.5, "--whitenv", 3)
    assert code == 0
    assert "--whitenp, --whitenv: without effect" in err
    code, _, err = run("test_dir", *flags, "--whiten", "set", "--whitenp", 0.5)
    assert (code, "without effect" in err) == (0, False)
    more = ["--whiten", f"learn:{labelled}", "--output", tmp_path / "x.npy"]
    code, _, err = run("extract_features", *flags, *more)
    assert code == 2
    assert "only test-dir learns a whitening" in err


def test_options_of_the_model(run, model, labelled):
    flags = ["--dataset", labelled, "--checkpoint", model, "--whiten", ""]
    plain = dir_jax.evaluate(labelled, model)
    for option, value in (("dtype", "bfloat16"), ("center_bias", 0.9), ("precision", "default")):
        code, out, _ = run("test_dir", *flags, f"--{option.replace('_', '-')}", value)
        assert code == 0
        expected = dir_jax.evaluate(labelled, dir_jax.load(model, **{option: value}))
        assert closing_lines(out) == {k: pytest.approx(v, rel=1e-5) for k, v in expected.items()}
        if option == "dtype":  # CPUs heed no precision, and these maps have no centre
            assert expected != plain


def test_saved_features_give_the_same(run, model, oxford, labelled, tmp_path):
    for i, dataset in enumerate((oxford, labelled)):
        flags = ["--dataset", dataset, "--checkpoint", model]
        code, out, _ = run("test_dir", *flags, "--whiten", "set", "--save-feats", tmp_path / str(i))
        assert code == 0
        files = sorted(p.name for p in (tmp_path / str(i)).glob("*.npy"))
        assert files == ["feats.bdescs.npy", *(["feats.qdescs.npy"] if i == 0 else [])]
        _, again, _ = run("test_dir", *flags, "--whiten", "set", "--load-feats", tmp_path / str(i))
        assert closing_lines(out) == closing_lines(again) != {}
        options = ["--whiten", "set", "--whitenv", 5, "--aqe", 2, 3]
        _, loaded, _ = run("test_dir", *flags, *options, "--load-feats", tmp_path / str(i))
        _, described, _ = run("test_dir", *flags, *options)
        assert closing_lines(loaded) == closing_lines(described) != {}


def test_features_of_any_origin_need_no_model(run, model, labelled, oxford, tmp_path):
    rng = np.random.default_rng(0)
    theirs = rng.standard_normal((24, 7)).astype(np.float16)
    np.save(tmp_path / "theirs.npy", theirs)
    code, out, _ = run("test_dir", "--dataset", labelled, "--load-feats", tmp_path / "theirs.npy")
    assert code == 0
    expected = evaluate_descriptors(create_dataset(labelled), theirs.astype(np.float32)).metrics
    assert closing_lines(out) == {k: pytest.approx(v, rel=1e-5) for k, v in expected.items()}
    bad = ["test_dir", "--dataset", labelled, "--load-feats", tmp_path / "theirs.npy"]
    assert "--checkpoint is missing" in run(*bad, "--whiten", "set")[2]
    assert "7 dimensions, the model's have" in run(*bad, "--checkpoint", model)[2]
    assert "--checkpoint is missing" in run("test_dir", "--dataset", labelled)[2]


def test_features_of_a_database_and_of_queries_are_made_in_one_way(run, oxford, tmp_path):
    for name, rows, recipe in (("db", 21, Recipe(whiten="a")), ("q", 3, Recipe())):
        path = str(tmp_path / f"x.{name}descs.npy")
        np.save(path, np.ones((rows, 7), np.float32))
        write_recipe(path, recipe)
    code, _, err = run("test_dir", "--dataset", oxford, "--load-feats", tmp_path / "x.npy")
    assert (code, "were not made in one way" in err) == (2, True), err


def test_features_that_are_not_finite_are_refused_or_counted(run, labelled, tmp_path):
    theirs = np.random.default_rng(0).standard_normal((24, 7))
    theirs[[4, 9], 2] = np.nan, np.inf
    np.save(tmp_path / "theirs.npy", theirs)
    flags = ["test_dir", "--dataset", labelled, "--load-feats", tmp_path / "theirs.npy"]
    code, out, err = run(*flags)
    assert code == 2
    assert "2 of 24 descriptors in" in err
    assert "does not list their images: rows 4 (4.png), 9 (9.png); --on-error skip" in err
    assert not closing_lines(out)
    code, skipped, err = run(*flags, "--on-error", "skip")
    assert code == 0
    assert err.count("left out: ") == 2
    assert "\nleft out: 2 images\n" in skipped
    assert closing_lines(skipped)
    failed = tmp_path / "theirs.npy.failed.txt"
    failed.write_text("4.png\ttorn\n")
    code, _, err = run(*flags)
    assert (code, "1 of 24 descriptors" in err, "rows 9 (9.png); " in err) == (2, True, True)
    failed.write_text("4.png\ttorn\n9.png\tgone\n")
    code, out, err = run(*flags)
    assert (code, err) == (0, "left out: torn\nleft out: gone\n")
    assert closing_lines(out) == closing_lines(skipped)


def test_extracted_features_are_not_whitened_again(run, model, oxford, tmp_path):
    flags = ["--dataset", oxford, "--checkpoint", model]
    code, said, _ = run(
        "extract_features", *flags, "--whiten", "set", "--output", tmp_path / "x.npy"
    )
    assert code == 0
    assert "Descriptors: images as they are; whitening 'set', power 0.25" in said
    recipe = json.loads((tmp_path / "x.dbdescs.npy.recipe.json").read_text())
    assert (recipe["whiten"], recipe["whitenp"], recipe["trfs"]) == ("set", 0.25, [""])
    _, expected, _ = run("test_dir", *flags, "--whiten", "set")
    for some in (["--checkpoint", model], []):
        load = ["--dataset", oxford, *some, "--load-feats", tmp_path / "x.npy"]
        code, found, _ = run("test_dir", *load)
        assert code == 0
        assert closing_lines(found) == closing_lines(expected) != {}
        assert "are whitened already" in run("test_dir", *load, "--whiten", "set")[2]


def test_images_that_cannot_be_used_are_left_out(run, model, photos):
    rows = (photos / "labels.txt").read_text().splitlines()
    (photos / "more.txt").write_text("\n".join([*rows[:5], "no.png class1", *rows[5:]]) + "\n")
    words = f'ImageListLabels("{photos}/more.txt", "{photos}")'
    flags = ["--checkpoint", model, "--whiten", ""]
    code, _, err = run("test_dir", "--dataset", words, *flags)
    assert (code, "no.png" in err) == (2, True)
    code, out, err = run("test_dir", "--dataset", words, *flags, "--on-error", "skip")
    assert code == 0
    assert "left out: there is no image file" in err
    good = f'ImageListLabels("{photos}/labels.txt", "{photos}")'
    expected = dir_jax.evaluate(good, model)
    assert closing_lines(out) == {k: pytest.approx(v, rel=1e-5) for k, v in expected.items()}


class Refuses:
    """Opening any image fails the test: bad input is found before."""

    @pytest.fixture(autouse=True)
    def _no_image(self, monkeypatch):
        def refuse(*_):
            raise AssertionError("an image was read")

        monkeypatch.setattr("dir_jax.data.images.ImageDataset.size", refuse)
        monkeypatch.setattr("dir_jax.data.images.ImageDataset.open", refuse)
        monkeypatch.delenv("DB_ROOT", raising=False)


class TestBadInput(Refuses):
    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--dataset", "Oxford5"], "did you mean Oxford5K"),
            (["--dataset", "ImageLst('x')"], "did you mean ImageList"),
            (["--dataset", "ImageList('x'"], "^"),
            (["--dataset", "__import__('os').system('true')"], "expected a data set"),
            (["--dataset", "ImageList('/nowhere.txt')"], "cannot be read"),
            (["--dataset", "ROxford5K"], "DB_ROOT"),
            (["--dataset", "Landmarks_clean", "--db-root", "/nowhere"], "no file /nowhere"),
            (["--trfs", "Scale(1050), Pd(800)"], "\n               ^"),
            (["--trfs", "Scale(-1)"], "Scale"),
            (["--whiten", "Landmarks_clean"], "it has set"),
            (["--whiten", "set", "--whitenv", "9"], "--whitenv"),
            (["--pooling", "max"], "gem, mean or cirtorch"),
            (["--gemp", "0"], "above 0"),
            (["--threads", "-1"], "--threads"),
            (["--gpu", "99"], "--gpu"),
            (["--gpu", "0", "0"], "twice"),
            (["--checkpoint", "/nowhere"], "no checkpoint"),
            (["--frobnicate"], "--frobnicate"),
            (["--on-error", "ignore"], "--on-error"),
            (["--dtype", "float16"], "--dtype"),
        ],
    )
    @pytest.mark.parametrize("command", ["test_dir", "extract_features"])
    def test_flags_of_both(self, run, model, labelled, tmp_path, command, flags, message):
        usual = ["--dataset", labelled, "--checkpoint", model, "--whiten", ""]
        if command == "extract_features":
            usual += ["--output", tmp_path / "new" / "x.npy"]
        code, out, err = run(command, *usual, *flags)
        assert code == 2
        assert err.startswith("error: ")
        assert message in err
        assert " * " not in out
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--aqe", "10"], "expected two numbers"),
            (["--adba", "3", "x"], "expected two numbers"),
            (["--aqe", "1", "2", "3"], "expected two numbers"),
            (["--aqe", "25", "1"], "aqe: cannot take the 25 nearest"),
            (["--adba", "24", "1"], "which has 23"),
            (["--aqe", "2", "-1"], "alpha is -1"),
            (["--save-feats", "a", "--load-feats", "b"], "give one of them"),
            (["--load-feats", "/nowhere"], "neither a file nor a folder /nowhere"),
        ],
    )
    def test_flags_of_test_dir(self, run, model, labelled, flags, message):
        usual = ["--dataset", labelled, "--checkpoint", model, "--whiten", ""]
        code, _, err = run("test_dir", *usual, *flags)
        assert code == 2
        assert message in err
        assert len(err.splitlines()) == 1

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.zeros((23, 8), np.float32), "(23, 8)"),
            (np.zeros((24, 9), np.float32), "9 dimensions, the model's have 8"),
            (np.zeros((24, 8), np.int64), "int64"),
            (np.array([object()] * 24), "holds object"),
        ],
    )
    def test_features_of_another_size(self, run, model, labelled, tmp_path, array, message):
        np.save(tmp_path / "feats.bdescs.npy", array, allow_pickle=True)
        code, _, err = run("test_dir", "--dataset", labelled, "--checkpoint", model,
                           "--whiten", "", "--load-feats", tmp_path)  # fmt: skip
        assert code == 2
        assert message in err

    def test_nothing_is_relevant(self, run, model, tmp_path):
        (tmp_path / "alone.txt").write_text("a.png a\nb.png b\n")
        words = f'ImageListLabels("{tmp_path}/alone.txt")'
        code, _, err = run("test_dir", "--dataset", words, "--checkpoint", model)
        assert (code, "nothing to retrieve" in err) == (2, True)
        with pytest.raises(UserError, match="nothing to retrieve"):
            dir_jax.evaluate(words, model)

    def test_a_list_without_labels(self, run, model, photos):
        dataset = f'ImageList("{photos}/names.txt", "{photos}")'
        code, _, err = run("test_dir", "--dataset", dataset, "--checkpoint", model)
        assert (code, "nothing to evaluate" in err) == (2, True)

    def test_a_ground_truth_beyond_its_list(self, run, model, tmp_path):
        truth = {"imlist": ["a", "b"], "qimlist": ["a"],
                 "gnd": [{"bbx": [0, 0, 9, 9], "ok": [2], "junk": []}]}  # fmt: skip
        (tmp_path / "gnd.pkl").write_bytes(pickle.dumps(truth))
        dataset = f'ImageListRelevants("{tmp_path}/gnd.pkl")'
        code, _, err = run("test_dir", "--dataset", dataset, "--checkpoint", model)
        assert (code, "refers to image 2" in err) == (2, True)

    @pytest.mark.parametrize("content", ["{", "[1]", "\xff", "", '{"a":' * 990 + "1" + "}" * 990])
    def test_results_that_cannot_be_added_to(self, run, model, labelled, tmp_path, content):
        (tmp_path / "r.json").write_text(content)
        code, _, err = run("test_dir", "--dataset", labelled, "--checkpoint", model,
                           "--out-json", tmp_path / "r.json")  # fmt: skip
        assert (code, "cannot be added to" in err) == (2, True)
        assert (tmp_path / "r.json").read_text() == content

    @pytest.mark.parametrize("output", ["x.txt", "", "x.npy/y.npy"])
    def test_outputs(self, run, model, labelled, tmp_path, output):
        (tmp_path / "x.npy").touch()
        code, _, err = run("extract_features", "--dataset", labelled, "--checkpoint", model,
                           "--output", f"{tmp_path}/{output}")  # fmt: skip
        assert code == 2
        assert "error: " in err


def test_transforms_of_random_sizes(run, model, labelled, tmp_path):
    code, _, err = run("extract_features", "--dataset", labelled, "--checkpoint", model,
                       "--output", tmp_path / "x.npy", "--trfs", "RandomScale(10, 20)")  # fmt: skip
    assert (code, "random sizes" in err) == (2, True)


@pytest.mark.parametrize("command", ["test_dir", "extract_features", "extract_kapture"])
def test_help_imports_nothing_heavy(command):
    code = (
        f"import sys; sys.argv = ['x', '--help']\nfrom dir_jax import {command} as c\n"
        "try: c._parser().parse_args()\nexcept SystemExit: pass\n"
        "print(sorted({'jax', 'torch', 'flax', 'numpy', 'kapture'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--checkpoint" in out.stdout
    assert out.stdout.splitlines()[-1] == "[]"


def test_query_boxes_are_rounded_and_cut_to_the_image(oxford):
    queries = create_dataset(oxford).queries
    assert queries.open(0).size == queries.size(0) == (28, 32)  # 2, 2, 30, 34
    assert queries.open(1).size == queries.size(1) == (48, 36)


def test_a_report_that_is_a_folder_is_refused_before_anything_is_described(
    run, model, photos, tmp_path, monkeypatch
):
    flags = ["--dataset", f"ImageListLabels('{photos}/labels.txt', '{photos}')"]
    flags += ["--checkpoint", model]
    monkeypatch.delattr("dir_jax.test_dir.create_describer")
    for flag in ("--report", "--out-json"):
        code, _, err = run("test_dir", *flags, flag, tmp_path)
        assert code == 2
        assert "is a folder" in err
    (tmp_path / "file").touch()
    code, _, err = run("test_dir", *flags, "--report", tmp_path / "file" / "report.html")
    assert code == 2
    assert "cannot make the folder" in err
