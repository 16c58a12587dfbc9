"""Oxford-style data sets: ground truth from files, what it means, and what is refused."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
from PIL import Image

from dir_jax.data.datasets import create_dataset
from dir_jax.data.ground_truth import RelevantsDataset
from dir_jax.data.headers import check_dataset
from dir_jax.describe.image_lists import read_list
from dir_jax.errors import UserError
from dir_jax.retrieval.protocols import evaluate_classic, evaluate_revisited
from tests.data.pictures import write_image
from tests.data.truths import write_truth


class TestRelevants:
    def test_revisited(self, tmp_path):
        file = write_truth(tmp_path / "gnd.pkl")
        pixels = np.random.default_rng(0).integers(256, size=(8, 12, 3), dtype=np.uint8)
        (tmp_path / "pictures").mkdir()
        Image.fromarray(pixels).save(tmp_path / "pictures" / "q.png")
        dataset = create_dataset(f"ImageListRelevants({file!r}, img_dir='pictures', ext='.png')")
        assert isinstance(dataset, RelevantsDataset)
        assert dataset.names == ["a.png", "b.png", "c.png"]
        assert dataset.path(0) == f"{tmp_path}/pictures/a.png"
        assert dataset.queries.names == ["q.png"]
        assert dataset.queries.boxes.tolist() == [[1.5, 2.5, 9.4, 6.6]]
        truth = dataset.ground_truth[0]
        assert {k: v.tolist() for k, v in truth.items()} == {"easy": [0], "hard": [2], "junk": []}
        assert all(v.dtype == np.int64 for v in truth.values())
        # 1.5 and 2.5 go to the even number, as the original's do.
        np.testing.assert_array_equal(np.asarray(dataset.queries.open(0)), pixels[2:7, 2:9])
        assert dataset.queries.size(0) == (7, 5)
        assert pickle.loads(pickle.dumps(dataset)).queries.open(0).size == (7, 5)

    def test_classic_without_boxes(self, tmp_path):
        write_image(tmp_path / "pics" / "q.jpg")
        file = write_truth(tmp_path / "a" / "g.pkl", gnd=[{"ok": np.array([1, 0]), "junk": [2]}])
        dataset = create_dataset(f"ImageListRelevants({file!r}, '{tmp_path}', 'pics')")
        assert list(dataset.ground_truth[0]) == ["ok", "junk"]
        assert dataset.queries.boxes is None
        assert dataset.queries.open(0).size == dataset.queries.size(0) == (12, 8)
        assert dataset.path(2) == f"{tmp_path}/pics/c.jpg"

    def test_the_real_ground_truth(self, shared_data):
        file = shared_data / "revisitop" / "gnd_roxford5k.pkl"
        dataset = create_dataset(f"ImageListRelevants('{file}', 'oxford5k')")
        assert len(dataset) == 4993
        assert dataset.path(0) == "oxford5k/jpg/ashmolean_000283.jpg"
        assert len(dataset.queries) == len(dataset.ground_truth) == 70
        assert dataset.queries.boxes[0].tolist() == [136.5, 34.1, 648.5, 955.7]
        assert dataset.ground_truth[0]["easy"][:3].tolist() == [30, 69, 296]
        # Of the 70 queries, two have no easy image (Radenović et al., table 2 counts them out).
        assert sum(len(t["easy"]) == 0 for t in dataset.ground_truth) == 2

    def test_boxes_beyond_their_pictures_are_cut_with_a_warning(self, tmp_path, caplog):
        write_image(tmp_path / "jpg/q.jpg", (40, 30))
        for box, size, cut in (
            ([0, 0, 40, 30], (40, 30), False),
            ([-3, 5, 20, 30.4], (20, 25), True),
            ([10, 20, 44.6, 33], (30, 10), True),
        ):
            truth = [{"bbx": box, "easy": [0], "hard": [], "junk": []}]
            file = write_truth(tmp_path / "gnd.pkl", gnd=truth)
            queries = create_dataset(f"ImageListRelevants({file!r})").queries
            caplog.clear()
            assert tuple(read_list("queries", queries).sizes[0]) == queries.open(0).size == size
            warning = "1 queries lead beyond their pictures and are cut there: query 0 (q.jpg)"
            assert (warning in caplog.text) == cut

    @pytest.mark.parametrize("box", [[40, 0, 60, 30], [0, -9, 9, 0], [100, 100, 200, 200]])
    def test_a_box_outside_its_picture_is_found_in_the_header(self, tmp_path, box):
        write_image(tmp_path / "jpg/q.jpg", (40, 30))
        truth = [{"bbx": box, "easy": [0], "hard": [], "junk": []}]
        file = write_truth(tmp_path / "gnd.pkl", gnd=truth)
        queries = create_dataset(f"ImageListRelevants({file!r})").queries
        message = r"box of query 0 \(.*q\.jpg\) is .* outside the picture: it has 40 x 30 pixels"
        with pytest.raises(UserError, match=message):
            check_dataset(queries)

    BOX = (1, 1, 5, 5)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"imlist": None, "gnd": None}, "has no 'imlist' and no 'gnd'"),
            ({"imlist": []}, "'imlist' is empty"),
            ({"imlist": "abc"}, "'imlist' is not a list of image names"),
            ({"imlist": ["a", 3]}, "'imlist' is not a list of image names"),
            ({"qimlist": ["q", "r"]}, "'gnd' has 1 entries; expected a list of 2"),
            ({"gnd": 5}, "'gnd' is of type int; expected a list of 1"),
            ({"gnd": [[]]}, r"query 0 \(q\.jpg\) has neither 'ok' and 'junk' nor 'easy'"),
            ({"gnd": [{"ok": []}]}, "has neither"),
            ({"gnd": [{"easy": [], "junk": []}]}, "has neither"),
            ({"gnd": [{"ok": [3], "junk": []}]}, "'ok' refers to image 3, but 'imlist' has 3"),
            ({"gnd": [{"ok": [0], "junk": [-1]}]}, "'junk' refers to image -1"),
            ({"gnd": np.array(1)}, "'gnd' is of type ndarray; expected a list of 1"),
            ({"imlist": np.array("a")}, "'imlist' is not a list of image names"),
            ({"gnd": [{"ok": [10**30], "junk": []}]}, "'ok' refers to image 1000000"),
            ({"gnd": [{"ok": np.array(1), "junk": []}]}, "'ok' is .*; expected a list"),
            ({"gnd": [{"bbx": [0, 0, 10**400, 1], "ok": [], "junk": []}]}, "'bbx' is"),
            ({"gnd": [{"bbx": np.array(1), "ok": [], "junk": []}]}, "'bbx' is"),
            ({"gnd": [{"ok": [0.5], "junk": []}]}, r"'ok' refers to image 0\.5, but 'imlist'"),
            ({"gnd": [{"ok": ["a"], "junk": []}]}, "'ok' refers to image 'a', but 'imlist'"),
            ({"gnd": [{"ok": [[0], [1, 2]], "junk": []}]}, r"'ok' refers to image \[0\]"),
            ({"gnd": [{"ok": 1, "junk": []}]}, "'ok' is .*; expected a list"),
            ({"gnd": [{"bbx": [1, 2, 3], "ok": [], "junk": []}]}, r"'bbx' is \[1, 2, 3\]"),
            ({"gnd": [{"bbx": [5, 2, 5.4, 9], "ok": [], "junk": []}]}, "'bbx' is"),
            ({"gnd": [{"bbx": [0, 0, float("nan"), 9], "ok": [], "junk": []}]}, "'bbx' is"),
            ({"qimlist": ["q", "r"],
              "gnd": [{"bbx": BOX, "ok": [], "junk": []}, {"ok": [], "junk": []}]},
             r"query 1 \(r\.jpg\): 'bbx' is None"),
            ({"gnd": [{"ok": [True], "junk": []}]}, "'ok' refers to image True"),
            ({"gnd": [{"ok": np.array([1.0]), "junk": []}]}, r"'ok' refers to image 1\.0"),
            ({"gnd": [{"ok": np.array([10**30], object), "junk": []}]}, "refers to image 100000"),
            ({"gnd": [{"ok": np.array([2**63], "u8"), "junk": []}]}, "refers to image 9223"),
            ({"gnd": [{"bbx": ["1", "2", "3", "4"], "ok": [], "junk": []}]}, "'bbx' is"),
            ({"gnd": [{"bbx": [0, 0, 1e9, 1e9], "ok": [], "junk": []}]}, "'bbx' is"),
            ({"gnd": [{"bbx": [0, 0, -5, -5], "ok": [], "junk": []}]}, "'bbx' is"),
            ({"gnd": [{"bbx": [[1], 2, 3, 4], "ok": [], "junk": []}]}, "'bbx' is"),
            ({"gnd": [{"bbx": np.ones((2, 2)), "ok": [], "junk": []}]}, "'bbx' is"),
            ({"imlist": ["\udc80", "b", "c"]}, "'imlist': '.udc80.jpg' is not a name"),
            ({"imlist": ["x" * 9999, "b", "c"]}, "'imlist': 'xxx.*' is too long for a name"),
        ],
    )  # fmt: skip
    def test_bad_ground_truth(self, tmp_path, changes, message):
        file = write_truth(tmp_path / "gnd.pkl", **changes)
        with pytest.raises(UserError, match=rf"gnd\.pkl.*{message}") as e:
            create_dataset(f"ImageListRelevants({file!r})")
        assert len(str(e.value)) < 500

    @pytest.mark.parametrize(
        ("query", "expected", "levels"),
        [
            ({"ok": [1], "junk": [0, 0]}, {"ok": [1], "junk": [0]}, {"": 1.0}),
            ({"ok": [1, 1], "junk": []}, {"ok": [1], "junk": []}, {"": 0.25}),
            ({"ok": [2, 1], "junk": [3, 1]}, {"ok": [2, 1], "junk": [3]}, {"": 5 / 12}),
            # Image 1 is easy and junk: it is relevant at two levels, and junk at the third.
            ({"easy": [1], "hard": [3], "junk": [1, 0]}, {"easy": [1], "hard": [3], "junk": [0]},
             {"easy": 1.0, "medium": 0.5 * 1.0 + 0.5 * (1 / 2 + 2 / 3) / 2, "hard": 0.25}),
        ],
    )  # fmt: skip
    def test_an_image_counts_once(self, tmp_path, caplog, query, expected, levels):
        names = [str(i) for i in range(4)]
        queries = {"qimlist": ["good", "bad"], "gnd": [{k: [] for k in query}, query]}
        file = write_truth(tmp_path / "gnd.pkl", imlist=names, **queries)
        dataset = create_dataset(f"ImageListRelevants({file!r})")
        assert {k: v.tolist() for k, v in dataset.ground_truth[1].items()} == expected
        assert re.search(r"gnd\.pkl names an image twice.* 1 queries \(bad\.jpg\)", caplog.text)
        evaluate = evaluate_classic if "ok" in query else evaluate_revisited
        found = evaluate(np.array([range(4)] * 2), dataset.ground_truth)
        for level, ap in levels.items():
            assert found["mAP" + f"-{level}" * bool(level)] == pytest.approx(ap, abs=1e-12)

    def test_queries_are_read_too(self, tmp_path):
        dataset = create_dataset(f"ImageListRelevants({write_truth(tmp_path / 'g.pkl')!r})")
        with pytest.raises(UserError, match=r"no image file .*q\.jpg"):
            check_dataset(dataset.queries)

    def test_other_content(self, tmp_path):
        (tmp_path / "gnd.pkl").write_bytes(pickle.dumps([1]))
        with pytest.raises(UserError, match="holds a list; expected a dict"):
            create_dataset(f"ImageListRelevants('{tmp_path}/gnd.pkl')")
