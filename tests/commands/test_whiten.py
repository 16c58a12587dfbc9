"""whiten: what is added to which model; and test_dir, which learns one for an evaluation."""

import shutil

import numpy as np
import pytest

import dir_jax
from dir_jax.checkpoint import read_model
from dir_jax.retrieval.whitening import learn_whitening, learn_whitening_from_pairs

DATA = 'ImageListLabels("{0}/labels.txt", "{0}")'


@pytest.fixture
def mine(model, tmp_path):
    """A copy of the model, which may be changed."""
    return shutil.copytree(model, tmp_path / "net")


def test_added_beside_the_others(run, mine, photos):
    before = read_model(mine)
    flags = ["--checkpoint", mine, "--dataset", DATA.format(photos), "--trfs", "Scale((40, 40))",
             "--threads", 0]  # fmt: skip
    x = dir_jax.load(mine).extract(DATA.format(photos), whiten="", trfs="Scale((40, 40))")
    code, out, err = run("whiten", *flags, "--name", "mine", "--precision", "default")
    assert code == 0, err
    assert out.endswith(f"wrote {mine}: whitening 'mine', 8 of 8 dimensions\n")
    assert run("whiten", *flags, "--name", "mine", "--overwrite")[0] == 0
    assert run("whiten", *flags, "--name", "pairs", "--method", "pairs", "--dims", 5)[0] == 0
    found = read_model(mine)
    assert set(found.whitenings) == {"set", "mine", "pairs"}
    assert found.recipe == before.recipe
    assert found.description["model"] == before.description["model"]
    np.testing.assert_array_equal(
        found.whitening("set").components_, before.whitening("set").components_
    )
    expected = learn_whitening(x)
    for name, array in expected.to_arrays().items():
        np.testing.assert_allclose(getattr(found.whitening("mine"), name), array, atol=1e-6)
    order = np.arange(24).reshape(4, 6).T  # of class c: c, c + 6, …
    pairs = np.stack([order, np.roll(order, -1, axis=1)], axis=-1).reshape(-1, 2)
    expected = learn_whitening_from_pairs(x, pairs).components_[:5]
    np.testing.assert_allclose(found.whitening("pairs").components_, expected, rtol=1e-4, atol=1e-2)
    assert not list(mine.parent.glob(".*"))


def test_what_is_refused_before_images_are_described(run, mine, photos, tmp_path):
    (tmp_path / "file.pt").write_text("")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/model.safetensors").write_text("")
    flags = ["--dataset", DATA.format(photos), "--checkpoint"]
    for more, message in [
        ([mine, "--name", "set"], "has a whitening 'set' already"),
        ([mine, "--name", "a/b"], "--name 'a/b': expected letters"),
        ([mine, "--name", "x", "--output", photos], "exists already"),
        ([tmp_path / "file.pt", "--name", "x"], "nothing can be added to the file"),
        (["Resnet101-AP-GeM", "--name", "x"], "added to the published model Resnet101-AP-GeM"),
        (["hf://a/b", "--name", "x"], "nothing can be added to the published model hf://a/b"),
        ([tmp_path / "shared", "--name", "x"], "nothing can be added to the published model"),
        ([mine, "--name", "x", "--dims", 9], r"cannot keep 9 dimensions (--dims)"),
        ([mine, "--name", "x", "--whiten", "set"], "there is no flag --whiten"),
    ]:
        code, _, err = run("whiten", *flags, *more)
        assert (code, err.count("\n")) == (2, 1)
        assert message in err
    assert set(read_model(mine).whitenings) == {"set"}


def test_a_model_that_stays_as_it_is(run, model, photos, tmp_path):
    code, _, err = run("whiten", "--checkpoint", model, "--dataset", DATA.format(photos),
                         "--name", "new", "--output", tmp_path / "new")  # fmt: skip
    assert code == 0, err
    assert set(read_model(tmp_path / "new").whitenings) == {"set", "new"}
    assert set(read_model(model).whitenings) == {"set"}


def test_learned_for_one_evaluation(run, mine, photos):
    """As an evaluation with the whitening that the command adds."""
    learn = f'ImageList("{photos}/names.txt", "{photos}")'
    flags = ["--checkpoint", mine, "--dataset", DATA.format(photos)]
    assert run("whiten", "--checkpoint", mine, "--dataset", learn, "--name", "added")[0] == 0
    code, learned, err = run("test_dir", *flags, "--whiten", f"learn:{learn}", "--whitenv", 5)
    assert code == 0, err
    added = run("test_dir", *flags, "--whiten", "added", "--whitenv", 5)[1]
    measures = [line for line in learned.splitlines() if line.startswith(" * ")]
    assert measures == [line for line in added.splitlines() if line.startswith(" * ")]
    assert set(read_model(mine).whitenings) == {"set", "added"}
    code, _, err = run("test_dir", *flags, "--whiten", f"learn:{learn}", "--whitenv", 9)
    assert (code, "cannot keep 9 dimensions (--whitenv)" in err) == (2, True), err
    code, _, err = run("test_dir", *flags, "--whiten", "learn:nothing")
    assert code == 2
    assert "no data set nothing; the names are" in err
