"""A resumed run notices when its lists or its images are others."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dir_jax.data.ground_truth import QueryDataset, RelevantsDataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.errors import UserError
from dir_jax.training.config import default_config
from dir_jax.training.image_record import ImageRecord, check_images
from dir_jax.training.saving import Resumed
from tests.data.pictures import write_image

NAMES, LABELS = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"], ["x", "x", "y", "y"]


@pytest.fixture
def folder(tmp_path):
    """Files that are no pictures: none is opened."""
    for name in NAMES:
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, ns=(1, 10**18))
    return str(tmp_path)


def labelled(folder, names=NAMES, labels=LABELS):
    return LabelledDataset(list(names), list(labels), folder)


def oxford(folder, box=(1.0, 2.0, 3.0, 4.0), ok=(1,)):
    queries = QueryDataset(["a.jpg"], folder, np.array([box]))
    truth = [{"ok": np.array(ok), "junk": np.array([0])}]
    return RelevantsDataset(list(NAMES), queries, truth, folder)


def changes(old, new, key="train"):
    return ImageRecord({key: new}).changes_since(ImageRecord({key: old}).arrays)


def test_what_is_the_same_is_the_same(folder):
    assert changes(labelled(folder), labelled(folder)) == []
    assert changes(oxford(folder), oxford(folder)) == []
    assert changes(labelled("/nowhere"), labelled("/nowhere")) == []


def test_lists_that_differ(folder):
    whole = labelled(folder)
    [message] = changes(whole, labelled(folder, NAMES[:3], LABELS[:3]))
    assert message == "config.data.train has 3 rows and had 4"
    [message] = changes(whole, labelled(folder, NAMES[::-1], LABELS[::-1]))
    assert message == f"config.data.train has another order, from row 1 ({folder}/d.jpg) on"
    [message] = changes(whole, labelled(folder, NAMES, ["x", "y", "y", "y"]))
    assert message == (
        f"1 of the 4 rows of config.data.train are others, such as row 2 ({folder}/b.jpg)"
    )
    # Class names count, not their numbers.
    assert len(changes(whole, labelled(folder, NAMES, ["p", "p", "q", "q"]))) == 1


@pytest.mark.parametrize("what", ["content", "time"])
def test_a_file_that_is_another(folder, what, monkeypatch):
    before = ImageRecord({"eval": labelled(folder)})
    path = os.path.join(folder, "c.jpg")
    if what == "content":  # of the same size
        with open(path, "w") as file:
            file.write("C.jpg")
    else:
        os.utime(path, ns=(1, 10**18 + 1))
    [message] = ImageRecord({"eval": labelled(folder)}).changes_since(before.arrays)
    assert message == (
        "1 of the 4 image files of config.data.eval have another size or modification time, such "
        f"as row 3 ({folder}/c.jpg)"
    )
    # Another process, whose machine may have a copy of its own, leaves files to the first.
    monkeypatch.setattr("dir_jax.training.image_record.is_first", lambda: False)
    assert ImageRecord({"eval": labelled(folder)}).changes_since(before.arrays) == []
    assert changes(labelled(folder), labelled(folder, NAMES[::-1], LABELS[::-1])) != []


def test_queries_and_ground_truth(folder):
    [message] = changes(oxford(folder), oxford(folder, box=(1.0, 2.0, 3.0, 5.0)), "eval_oxford")
    assert "1 of the 1 rows of config.data.eval_oxford (queries) are others" in message
    [message] = changes(oxford(folder), oxford(folder, ok=(2,)), "eval_oxford")
    assert message.endswith("(ground truth) are others, such as row 1")


def test_a_run_with_other_data_is_refused_unless_told(folder, caplog):
    config = default_config()
    setup = SimpleNamespace(
        dataset=labelled(folder), held_out=SimpleNamespace(sets={}), skipped=np.zeros(0, int)
    )
    begun = check_images(config, setup, Resumed(0, None))
    same = Resumed(3, None, images=begun.arrays)
    assert check_images(config, setup, same).same_rows
    setup.dataset = labelled(folder, NAMES[::-1], LABELS[::-1])
    with pytest.raises(UserError, match=r"another order.*--config\.data\.on_change=continue"):
        check_images(config, setup, same)
    assert not caplog.text
    config.data.on_change = "continue"
    # Triplets that were mined before are then of other images.
    assert not check_images(config, setup, same).same_rows
    assert "another order" in caplog.text
    check_images(config, setup, Resumed(3, None))  # a checkpoint of dir_jax 0.1.0
    assert "does not say which images" in caplog.text


def test_pairs_are_part_of_the_data(folder):
    config, dataset = default_config(), labelled(folder)
    dataset.pairs = np.array([[0, 1], [2, 3]])
    setup = SimpleNamespace(
        dataset=dataset, held_out=SimpleNamespace(sets={}), skipped=np.zeros(0, int)
    )
    begun = check_images(config, setup, Resumed(0, None))
    same = Resumed(3, None, images=begun.arrays)
    assert check_images(config, setup, same).same_pairs
    without = {k: v for k, v in begun.arrays.items() if "pairs" not in k}  # an earlier version's
    assert check_images(config, setup, Resumed(3, None, images=without)).same_pairs
    dataset.pairs = np.array([[0, 1], [3, 2]])
    with pytest.raises(UserError, match=r"1 of the 2 rows of config.data.train \(pairs\) are oth"):
        check_images(config, setup, same)
    config.data.on_change = "continue"
    now = check_images(config, setup, same)
    assert (now.same_rows, now.same_pairs) == (True, False)
    dataset.pairs = None
    assert not check_images(config, setup, same).same_pairs


def test_damage_is_no_change_where_it_is_skipped(folder):
    config = default_config()
    config.data.on_error = "skip"
    image = Path(folder, NAMES[0])
    write_image(image)
    setup = SimpleNamespace(
        dataset=labelled(folder), held_out=SimpleNamespace(sets={}), skipped=np.array([2])
    )
    begun = check_images(config, setup, Resumed(0, None))
    assert begun.skipped.tolist() == [2]
    resumed = Resumed(3, None, images=begun.arrays, skipped=np.array([1]))
    for damage in (Path.unlink, lambda path: path.write_text("404")):
        content = image.read_bytes()
        damage(image)
        now = check_images(config, setup, resumed)
        # What the run began without stays out, and nothing else does.
        assert now.skipped.tolist() == [1]
        np.testing.assert_array_equal(
            now.arrays["config.data.train"], begun.arrays["config.data.train"]
        )
        image.write_bytes(content)
    with pytest.raises(UserError, match="another size or modification time"):
        check_images(config, setup, resumed)
    config.data.on_change = "continue"
    assert check_images(config, setup, resumed).skipped.tolist() == [1]
