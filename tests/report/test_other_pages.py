"""Pages of labelled images, of the classic protocol and of nothing; and pages that fail."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dir_jax.data.ground_truth import QueryDataset, RelevantsDataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.errors import UserError
from dir_jax.report import JudgedRankings, write_report


@pytest.mark.parametrize("width", [1280, 390])
def test_labelled_images_that_query_each_other(
    browser: Any, labelled: dict[str, Any], tmp_path: Path, width: int
) -> None:
    folder, names, labels = (labelled[k] for k in ("folder", "names", "labels"))
    dataset = LabelledDataset(names, labels, str(folder))
    opened: Counter[int] = Counter()
    view = dataset.view
    dataset.view = lambda i, **how: (opened.update([i]), view(i, **how))[1]
    ap = np.linspace(0.1, 1, 130)
    ap[7] = np.nan
    shown = np.array([9, 7, 2])
    rankings = np.array([[i for i in range(130) if i != q] for q in shown])
    write_report(
        tmp_path / "page.html",
        JudgedRankings(
            dataset,
            metrics={"mAP": 0.5, "recall@1": 1.0, "recall@100": np.nan},
            aps={"": ap},
            shown=shown,
            rankings=rankings,
            scores=np.full((3, 12), 0.5, np.float32),
        ),
        title="Labelled",
        settings={},
    )
    assert opened == Counter(range(11))  # each once, though query and result, or in several rows
    browser.load(tmp_path / "page.html", width=width)
    assert len(browser.decoded_images()) == 33
    browser.assert_quiet()
    articles = browser.articles()
    assert [a["aps"] for a in articles] == [
        ["AP 11.4% 25 relevant"],
        ["AP 16.3% 25 relevant"],
        ["AP – 25 relevant"],
    ]
    assert "".join(r["marks"][0][2] for r in articles[0]["results"][:9]) == "✗✗✗✗✗✗✓✗✗"
    text = browser.evaluate("document.body.innerText")
    assert "130 images, each a query for all the others" in text
    assert "3 of 130" in text
    assert "Only of the queries shown below" in text
    assert "<class 2>" in text
    assert "junk" not in text
    assert browser.evaluate("document.querySelectorAll('.histogram .bar').length") == 20
    assert browser.evaluate("document.querySelectorAll('.levels, details, .bars').length") == 0


def test_labelled_queries_apart(
    browser: Any, labelled: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, queries = labelled["folder"], labelled["queries"]
    dataset = LabelledDataset(
        labelled["names"][:6], labelled["labels"][:6], str(folder), queries.classes, queries
    )
    write_report(
        tmp_path / "page.html",
        JudgedRankings(
            dataset,
            metrics={"mAP": 0.25},
            aps={"": np.array([0.25, np.nan])},
            shown=np.array([1, 0]),
            rankings=np.array([[0, 1, 2, 3, 4, 5], [3, 2, 1, 0, 5, 4]]),
            scores=np.ones((2, 6)),
        ),
        title="Apart",
        settings={},
    )
    assert "img/s" in capsys.readouterr().err
    browser.load(tmp_path / "page.html")
    assert len(browser.decoded_images()) == 14
    browser.assert_quiet()
    articles = browser.articles()
    assert [a["name"] for a in articles] == ["0.jpg", "1.jpg"]
    assert articles[0]["aps"] == ["AP 25.0% 1 relevant"]
    assert [r["marks"][0] for r in articles[0]["results"]][:2] == ["1 ✓ relevant", "2 ✗ wrong"]
    assert {r["marks"][0][2:] for r in articles[1]["results"]} == {"✗ wrong"}
    assert "2 queries · 6 images in the database" in browser.evaluate("document.body.innerText")
    assert "Query · only here" in browser.evaluate("document.body.innerText")
    title = browser.evaluate("document.querySelector('.bars title').textContent")
    assert title == "0.jpg: AP 25.0 %"


def test_classic_protocol(browser: Any, labelled: dict[str, Any], tmp_path: Path) -> None:
    names = labelled["names"][:12]
    truth = [{"ok": np.array([3, 4]), "junk": np.array([0])}]
    folder = str(labelled["folder"])
    write_report(
        tmp_path / "page.html",
        JudgedRankings(
            RelevantsDataset(names, QueryDataset(["1.jpg"], folder, None), truth, folder),
            metrics={"mAP": 0.5, "mP@1": 0.0},
            aps={"": np.array([0.5])},
            shown=np.array([0]),
            rankings=np.array([[0, 1, 3, 2, *range(4, 12)]]),
            scores=np.ones((1, 4)),
        ),
        title="Classic",
        settings={},
    )
    browser.load(tmp_path / "page.html")
    browser.assert_quiet()
    (article,) = browser.articles()
    marks = [r["marks"][0] for r in article["results"]]
    assert marks[:4] == ["(1) – junk", "1 ✗ wrong", "2 ✓ relevant", "3 ✗ wrong"]
    assert [r["score"] for r in article["results"]] == ["1.000"] * 4 + ["–"] * 6
    assert "classic protocol" in browser.evaluate("document.body.innerText")
    assert browser.evaluate("document.querySelectorAll('.box').length") == 0


def test_no_query_to_show(browser: Any, labelled: dict[str, Any], tmp_path: Path) -> None:
    write_report(
        tmp_path / "page.html",
        JudgedRankings(
            LabelledDataset(labelled["names"], [str(i) for i in range(130)]),
            metrics={"mAP": np.nan},
            aps={"": np.full(130, np.nan)},
            shown=np.zeros(0, np.int64),
            rankings=np.zeros((0, 129), np.int64),
            scores=np.zeros((0, 10)),
        ),
        title="Nothing",
        settings={},
    )
    browser.load(tmp_path / "page.html")
    browser.assert_quiet()
    assert "0 of 130" in browser.evaluate("document.body.innerText")


def test_whole_or_not_at_all(labelled: dict[str, Any], tmp_path: Path) -> None:
    dataset = LabelledDataset(["0.jpg", "1.jpg"], ["a", "a"], str(labelled["folder"]))
    page = tmp_path / "page.html"
    page.write_text("before")

    def write(path: Path) -> None:
        write_report(
            path,
            JudgedRankings(
                dataset,
                metrics={},
                aps={"": np.zeros(2)},
                shown=np.array([0]),
                rankings=np.array([[1]]),
                scores=np.ones((1, 1)),
            ),
            title="",
            settings={},
        )

    with pytest.raises(UserError, match="cannot write"):
        write(tmp_path / "nowhere" / "page.html")
    dataset.view = lambda i, **how: 1 / 0
    with pytest.raises(ZeroDivisionError):
        write(page)
    assert page.read_text() == "before"
    assert list(tmp_path.iterdir()) == [page]
