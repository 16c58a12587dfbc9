"""The page as a browser shows it: complete, correct, quiet, and safe from hostile names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dir_jax.data.ground_truth import QueryDataset, RelevantsDataset
from dir_jax.report import JudgedRankings, write_report

HOSTILE = "<img src=http:x onerror=alert(1)>&amp;\"'‮é☃.jpg"
BREAKING = "</title></style></bdi><script>document.title = 'broken out'</script>{{ 7 * 7 }}{% if %}"
LONG = "long" * 50 + ".jpg"
MISSING = "miss<ing\udcff.jpg"  # as Python reads a name that is not UTF-8
LEVELS = ("easy", "medium", "hard")

# The lowest contrast between text and its background, and the element that has it.
CONTRAST = """
(() => {
  const channels = text => text.match(/[\\d.]+/g).map(Number);
  const light = text => channels(text).slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = e => {
    while (e && channels(getComputedStyle(e).backgroundColor)[3] === 0) e = e.parentElement;
    return e ? getComputedStyle(e).backgroundColor : 'rgb(255, 255, 255)';
  };
  return [...document.body.querySelectorAll('*')]
    .filter(e => e.checkVisibility())
    .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
    .map(e => {
      const style = getComputedStyle(e);
      const text = e.closest('svg') ? style.fill : style.color;
      const [a, b] = [light(text), light(behind(e))].sort((x, y) => y - x);
      return [(a + 0.05) / (b + 0.05), e.outerHTML.slice(0, 200)];
    })
    .sort((x, y) => x[0] - y[0])[0];
})()
"""


@pytest.fixture(scope="module")
def oxford(
    tmp_path_factory: pytest.TempPathFactory, write_images: Callable[[Path, list[str]], None]
) -> tuple[Path, Path]:
    """A page of the revisited protocol, and the folder that it is in."""
    folder = tmp_path_factory.mktemp("oxford")
    names = [HOSTILE, LONG, *(f"{i}.jpg" for i in range(2, 12)), MISSING]
    queries = ["best.jpg", HOSTILE, "nothing.jpg", "gone.jpg", "middle.jpg"]
    write_images(folder, names[:-1])
    write_images(folder, [name for name in queries if name not in ("gone.jpg", HOSTILE)])
    boxes = np.array([[30, 20, 150, 120], [-9, -9, 999, 999], *([[0, 0, 9, 9]] * 3)], np.float64)
    truth = [
        {"easy": [0, 1, 12], "hard": [2], "junk": [3, 4]},
        {"easy": [5], "hard": [6, 7], "junk": []},
        {"easy": [], "hard": [], "junk": [1]},
        {"easy": [0], "hard": [], "junk": []},
        {"easy": [8], "hard": [9], "junk": []},
    ]
    arrays = [{g: np.array(v, np.int64) for g, v in each.items()} for each in truth]
    dataset = RelevantsDataset(
        names, QueryDataset(queries, str(folder), boxes), arrays, str(folder)
    )
    rankings = np.array([np.roll(np.arange(13), q) for q in range(5)])
    rankings[0] = [3, 0, 12, 5, 2, 4, 1, 6, 7, 8, 9, 10, 11]
    scores = np.linspace(0.95, -0.05, 10) * np.ones((5, 1))
    scores[0, 1], scores[2] = 0.12345, np.nan
    nan = np.nan
    write_report(
        folder / "page.html",
        JudgedRankings(
            dataset,
            metrics={
                f"{measure}-{level}": value + step
                for step, level in zip((0.0, 0.1, 0.2), LEVELS, strict=True)
                for measure, value in (
                    ("mAP", 0.12344),
                    ("mP@1", 0.5),
                    ("mP@5", 0.6),
                    ("mP@10", nan),
                )
            },
            aps={
                "easy": np.array([0.9, 0.3, nan, 0.05, 0.2]),
                "medium": np.array([0.8, 0.0123, nan, 0.75, 0.3]),
                "hard": np.array([0.1, 0.7, nan, nan, 0.2]),
            },
            shown=np.arange(5),
            rankings=rankings,
            scores=scores,
        ),
        title=BREAKING,
        settings={"Checkpoint": "runs/" + "x" * 300, BREAKING: BREAKING},
    )
    return folder / "page.html", folder


def test_the_browser_tells_of_faults(browser: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<img src='http://127.0.0.1:9/a.png'><script>console.warn('careful')</script>")
    browser.load(page)
    assert any("careful" in complaint for complaint in browser.complaints)
    assert browser.requests == ["http://127.0.0.1:9/a.png"]
    page.write_text("<p style='width: 2000px; background: #fff; color: #888'>wide and pale</p>")
    browser.load(page)
    assert not browser.complaints
    assert browser.evaluate(CONTRAST)[0] < 4
    with pytest.raises(AssertionError):
        browser.assert_quiet()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_quiet_legible_and_as_wide_as_the_window(
    browser: Any, oxford: tuple[Path, Path], width: int, dark: bool
) -> None:
    browser.load(oxford[0], width=width, dark=dark)
    browser.evaluate("document.querySelector('details').open = true")
    browser.assert_quiet()
    assert browser.evaluate("innerWidth") == width
    for level in LEVELS:
        browser.evaluate(f"document.querySelector('#at-{level}').click()")
        contrast, where = browser.evaluate(CONTRAST)
        assert contrast >= 4.5, where
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) < 150) == dark


def test_every_picture_is_there(browser: Any, oxford: tuple[Path, Path]) -> None:
    browser.load(oxford[0])
    found = browser.decoded_images()
    assert all(max(size) in (40, 200, 300, 320) for *size, _ in found)  # none is enlarged
    alts = Counter(alt for *_, alt in found)
    shown = [i for row in range(1, 5) for i in np.roll(np.arange(13), row)[:10]]
    shown += [3, 0, 12, 5, 2, 4, 1, 6, 7, 8]
    expected = Counter(f"{i}.jpg" for i in shown if 1 < i < 12)
    expected[HOSTILE], expected[LONG] = shown.count(0), shown.count(1)
    for name in ("best.jpg", HOSTILE, "nothing.jpg", "middle.jpg"):
        expected[f"Query {name}, its box marked"] += 1
    assert alts == expected
    text = [e["results"] for e in browser.articles()]
    assert sum(r["missing"] for row in text for r in row) == shown.count(12)
    missing = browser.evaluate("document.querySelector('#query-3 .query').innerText")
    assert "cannot be opened" in missing
    browser.assert_quiet()


@pytest.mark.parametrize(
    ("level", "order", "best"),
    [
        ("easy", ["gone", "middle", HOSTILE, "best", "nothing"], "jrrwjjrwww"),
        ("medium", [HOSTILE, "middle", "gone", "best", "nothing"], "jrrwrjrwww"),
        ("hard", ["best", "middle", HOSTILE, "nothing", "gone"], "jjjwrjjwww"),
    ],
)
def test_verdicts_and_order(
    browser: Any, oxford: tuple[Path, Path], level: str, order: list[str], best: str
) -> None:
    browser.load(oxford[0])
    if level != "medium":  # which is where the page starts
        browser.evaluate(f"document.querySelector('#at-{level}').click()")
    articles = browser.articles()
    assert [a["name"].removesuffix(".jpg") for a in articles] == [
        name.removesuffix(".jpg") for name in order
    ]
    results = next(a for a in articles if a["name"] == "best.jpg")["results"]
    rank, colors = 0, {}
    for place, (result, letter) in enumerate(zip(results, best, strict=True), start=1):
        rank += letter != "j"
        word = {"r": "✓ relevant", "w": "✗ wrong", "j": "– junk"}[letter]
        assert result["marks"] == [f"({place}) {word}" if letter == "j" else f"{rank} {word}"]
        color, style, width = result["frame"]
        assert (style, width) == ("dashed" if letter == "j" else "solid", "3px")
        assert colors.setdefault(letter, color) == color
    for letter, channel in (("w", 0), ("r", 1)):  # red and green
        if letter in colors:
            channels = [int(c) for c in re.findall(r"\d+", colors[letter])[:3]]
            assert np.argmax(channels) == channel
    assert len(set(colors.values())) == len(colors)


def test_figures(browser: Any, oxford: tuple[Path, Path]) -> None:
    browser.load(oxford[0])
    table = browser.evaluate(
        "[...document.querySelectorAll('.metrics tr')].map(r => [...r.cells].map(c => c.innerText))"
    )
    assert table == [
        ["level", "mAP", "mP@1", "mP@5", "mP@10", "queries"],
        ["easy", "12.34", "50.00", "60.00", "–", "4"],
        ["medium", "22.34", "60.00", "70.00", "–", "4"],
        ["hard", "32.34", "70.00", "80.00", "–", "3"],
    ]
    articles = {a["name"]: a for a in browser.articles()}
    assert articles["best.jpg"]["aps"] == [
        "easy 90.0% 3 relevant",
        "medium 80.0% 4 relevant",
        "hard 10.0% 1 relevant",
    ]
    assert articles["nothing.jpg"]["aps"] == [f"{level} – none relevant" for level in LEVELS]
    assert [r["score"] for r in articles["best.jpg"]["results"]][:2] == ["0.950", "0.123"]
    assert articles["best.jpg"]["results"][-1]["score"] == "−0.050"
    assert {r["score"] for r in articles["nothing.jpg"]["results"]} == {"–"}
    assert articles["best.jpg"]["results"][2]["name"] == "miss<ing\ufffd.jpg"


def test_charts(browser: Any, oxford: tuple[Path, Path]) -> None:
    browser.load(oxford[0])
    bars = browser.evaluate(
        """[...document.querySelectorAll('.bars a')].map(a => {
          const whole = document.querySelector('.bars').getBoundingClientRect().height;
          const heights = [...a.querySelectorAll('.bar, .none')]
            .map(e => e.getBoundingClientRect().height / whole);
          return [a.getAttribute('href'), a.querySelector('title').textContent, heights,
                  a.querySelectorAll('circle').length];
        })"""
    )
    assert [bar[0] for bar in bars] == [f"#query-{q}" for q in (1, 4, 3, 0, 2)]
    np.testing.assert_allclose([b[2] for b in bars], [[0.0123], [0.3], [0.75], [0.8], [0.03]], 1e-2)
    assert bars[2][1] == "gone.jpg: easy 5.0 %, medium 75.0 %, hard –"
    assert bars[4][1] == "nothing.jpg: no relevant images"
    assert [bar[3] for bar in bars] == [2, 2, 1, 2, 0]
    lines = browser.evaluate(
        "[...document.querySelectorAll('.curves polyline')].map(e => "
        "[e.className.baseVal, e.points.length, e.points[0].x, e.points[100].x])"
    )
    assert lines == [[f"line {level}", 101, 0, 100] for level in LEVELS]
    label = browser.evaluate("document.querySelector('.curves').ariaLabel")
    assert "hard: " in label
    assert "% at 50 % recall" in label
    rows = "[...document.querySelectorAll('details tr')].map(r => r.innerText.split(/\\s+/))"
    browser.evaluate("document.querySelector('details').open = true")
    assert browser.evaluate(rows)[3] == ["gone.jpg", "5.0", "75.0", "–"]


def test_box(browser: Any, oxford: tuple[Path, Path]) -> None:
    browser.load(oxford[0])
    places = """[...document.querySelectorAll('.box')].map(svg => {
      const image = svg.parentElement.querySelector('img').getBoundingClientRect();
      const box = svg.lastElementChild.getBoundingClientRect();
      return [svg.closest('article').id, (box.left - image.left) / image.width,
        (box.top - image.top) / image.height, box.width / image.width, box.height / image.height];
    })"""
    found = {query: place for query, *place in browser.evaluate(places)}
    assert set(found) == {f"query-{q}" for q in (0, 1, 2, 4)}
    # The picture is whole, 300 × 200; the box is 30, 20, 150, 120.
    np.testing.assert_allclose(found["query-0"], [0.1, 0.1, 0.4, 0.5], atol=0.01)
    np.testing.assert_allclose(found["query-1"], [0, 0, 1, 1], atol=0.01)  # cut to the picture


def test_hostile_names_stay_text(browser: Any, oxford: tuple[Path, Path]) -> None:
    browser.load(oxford[0])
    assert browser.evaluate("document.title") == BREAKING
    assert browser.evaluate("document.querySelector('h1').textContent") == BREAKING
    settings = "[...document.querySelectorAll('.settings > div')].map(e => e.innerText).at(-1)"
    assert browser.evaluate(settings).split("\n") == [BREAKING, BREAKING]
    assert (
        browser.evaluate("document.querySelectorAll('script, [onerror], [src=\"http:x\"]').length")
        == 0
    )
    assert browser.evaluate("[...document.images].every(i => i.src.startsWith('data:image/jpeg'))")
    ids = browser.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))


def test_needs_nothing(oxford: tuple[Path, Path]) -> None:
    text = oxford[0].read_text("utf-8")
    markup = re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", "", text)
    assert "://" not in markup
    assert "<script" not in markup
    assert "@import" not in markup
    assert "url(" not in markup
    assert "default-src 'none'" in markup
    assert "d2hvc2Ugc2Vjc" not in text  # the comment of the files, which may be private
    assert not list(oxford[1].glob(".*"))
