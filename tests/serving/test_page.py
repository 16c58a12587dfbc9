"""The page in headless Chromium: with a picture, a box, the mouse, a finger and the keyboard."""

import shutil
import time
import urllib.parse

import pytest
from PIL import ExifTags, Image
from playwright.sync_api import expect, sync_playwright

from .conftest import COUNT

PATIENCE = 60_000  # ms; the machine may be busy
expect.set_options(timeout=PATIENCE)
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUERY = "a b/3.png"


@pytest.fixture(scope="module")
def browser():
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no Chromium to load the page in (looked for {', '.join(NAMES)})")
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        yield playwright.chromium.launch(executable_path=program, args=flags)


@pytest.fixture
def open_page(browser, address):
    """Opens an address in a window; at the end, the page must not have complained."""
    contexts, complaints = [], []

    def open_page(path="", width=1280, height=900, scheme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme,
            has_touch=width < 600, is_mobile=width < 600,
        )  # fmt: skip
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url)
                if not request.url.startswith((address, "blob:", "data:")) else None)  # fmt: skip
        page.goto(address + path)
        settled(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    # Of an answer that is an error, the browser writes so itself.
    assert [c for c in complaints if "Failed to load resource" not in c] == []


def settled(page):
    page.locator('#found[aria-busy="false"]').wait_for()


def results(page):
    return page.locator("#results a").evaluate_all("all => all.map(a => a.dataset.image)")


def expect_results(page, wanted, count=None):
    """Waits until the first `count` results, by default all, are these."""
    end = time.monotonic() + PATIENCE / 1000
    while (found := results(page)[:count]) != wanted and time.monotonic() < end:
        page.wait_for_timeout(50)
    assert found == wanted
    settled(page)


def expect_text(page, selector, text):
    expect(page.locator(selector)).to_have_text(text, use_inner_text=True)


def drag(page, *corners):
    """Draws a box; the corners are shares of the picture."""
    frame = page.locator("#canvas").bounding_box()
    left, top, right, bottom = (
        frame["xy"[i % 2]] + share * frame[("width", "height")[i % 2]]
        for i, share in enumerate(corners)
    )
    page.mouse.move(left, top)
    page.mouse.down()
    page.mouse.move((left + right) / 2, bottom)
    page.mouse.move(right, bottom)
    page.mouse.up()


def expected(searcher, world, box=None, count=40):
    return searcher.index.search(world / "photos" / QUERY, count, box=box).names[0]


def test_a_picture_then_a_box_then_a_result(open_page, world, searcher):
    page = open_page()
    assert page.title() == "my.index"
    expect_text(page, "#status", f"40 of {COUNT + 2}")
    expect_results(page, [f"a b/{i}.png" for i in range(40)])
    expect(page.locator("#query")).to_be_hidden()

    page.set_input_files("#file", world / "photos" / QUERY)
    page.locator("#results .score").first.wait_for()
    settled(page)
    expect_results(page, expected(searcher, world))
    first = page.locator("#results li").first
    expect(first.locator(".rank")).to_have_text("1")
    expect(first.locator(".score")).to_have_text("1.000")
    expect_text(page, "figcaption", "3.png · 64 × 48 pixels")

    page.locator("#canvas").wait_for()
    drag(page, 0.25, 0.25, 0.75, 0.75)
    page.locator("#box").wait_for(state="attached")
    expect_text(page, "#part", "Box: 16, 12 – 48, 36")
    expect_results(page, expected(searcher, world, (16, 12, 48, 36)))
    page.locator("#whole").click()
    expect_results(page, expected(searcher, world))

    name = expected(searcher, world)[1]
    page.locator("#results a").nth(1).click()
    expect_results(page, [name], 1)
    assert urllib.parse.parse_qs(urllib.parse.urlsplit(page.url).query) == {"image": [name]}
    expect(page).to_have_title(f"{name} – my.index")
    page.go_back()
    expect_results(page, expected(searcher, world))  # the picture is still there
    page.go_back()
    expect_results(page, ["a b/0.png"], 1)


def test_an_address_brings_the_query_back_with_its_box(open_page, world, searcher):
    page = open_page("?" + urllib.parse.urlencode({"image": QUERY, "box": "8,4,40,36"}))
    expect_results(page, expected(searcher, world, (8, 4, 40, 36)))
    page.locator("#canvas").wait_for()
    frame = page.locator("#canvas").bounding_box()
    drawn = page.locator("#box .over").bounding_box()
    shares = [(drawn["x"] - frame["x"]) / frame["width"], drawn["height"] / frame["height"]]
    assert shares == pytest.approx([8 / 64, 32 / 48], abs=0.02)
    page.locator("#link").click()
    settled(page)
    expect_text(page, "#part", "Box: 8, 4 – 40, 36")


def test_what_the_browser_cannot_show_the_server_copies(open_page, world, tmp_path):
    Image.open(world / "photos" / QUERY).save(tmp_path / "query.tif")
    page = open_page()
    page.set_input_files("#file", tmp_path / "query.tif")
    page.locator("#results .score").first.wait_for()
    page.locator("#canvas").wait_for()
    expect_text(page, "figcaption", "query.tif · 64 × 48 pixels")
    drag(page, 0.25, 0.25, 0.75, 0.75)
    expect_text(page, "#part", "Box: 16, 12 – 48, 36")


def test_a_turned_picture_is_shown_as_it_is_searched(open_page, world, tmp_path):
    picture = Image.open(world / "photos" / QUERY)
    exif = picture.getexif()
    exif[ExifTags.Base.Orientation] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)  # a recipe without --exif leaves it lying
    page = open_page()
    page.set_input_files("#file", tmp_path / "turned.jpg")
    page.locator("#results .score").first.wait_for()
    page.locator("#canvas").wait_for()
    frame = page.locator("#canvas").bounding_box()
    assert frame["width"] / frame["height"] == pytest.approx(64 / 48, rel=0.02)
    drag(page, 0.25, 0.25, 0.75, 0.75)
    expect_text(page, "#part", "Box: 16, 12 – 48, 36")


def test_scrolling_shows_all(open_page):
    page = open_page("?image=a%20b/3.png")
    for _ in range(10):
        page.mouse.wheel(0, 20_000)
        if page.locator("#results li").count() == COUNT + 2:
            break
        page.wait_for_timeout(300)
    page.locator("#results li").nth(COUNT + 1).wait_for()
    assert len(set(results(page))) == COUNT + 2
    expect_text(page, "#status", f"{COUNT + 2} of {COUNT + 2}")
    ranks = page.locator("#results .rank").all_inner_texts()
    assert ranks == [str(i + 1) for i in range(COUNT + 2)]
    page.locator("#results .missing").nth(1).wait_for()  # two images have no file
    expect(page.locator("#more")).to_be_hidden()


def test_by_keyboard_alone(open_page):
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    chosen = page.evaluate("document.activeElement.dataset.image")
    columns = int(chosen.removeprefix("a b/").removesuffix(".png")) - 1
    assert 3 <= columns <= 8
    page.keyboard.press("Enter")
    page.locator("#results .score").first.wait_for()
    settled(page)
    expect_results(page, [chosen], 1)
    page.locator("#canvas").wait_for()
    page.keyboard.press("Shift+Tab")  # from the heading back to the query
    for _ in range(4):
        if page.evaluate("document.activeElement.id") == "canvas":
            break
        page.keyboard.press("Shift+Tab")
    size = page.locator("figcaption").inner_text().split("· ")[1]
    width, height = (int(part) for part in size.split() if part.isdecimal())
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    part = [width // 4, height // 4, width - width // 4, height - height // 4 + round(height / 40)]
    text = f"Box: {part[0]}, {part[1]} – {part[2]}, {part[3]}"
    expect_text(page, "#part", text)
    box = urllib.parse.quote_plus(",".join(map(str, part)))
    page.wait_for_url(lambda address: box in address)
    expect_results(page, [chosen], 1)
    page.keyboard.press("Delete")
    page.wait_for_url(lambda address: "box" not in address)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_as_wide_as_the_window_and_as_dark_as_the_system(open_page, world, width, scheme):
    page = open_page(width=width, scheme=scheme)
    page.set_input_files("#file", world / "photos" / QUERY)
    page.locator("#results .score").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    tops = page.locator("#results li").evaluate_all("all => all.map(e => e.offsetTop)")
    assert tops.count(tops[0]) == (3 if width == 390 else 5)
    if width == 390:
        page.locator("#results a").nth(2).tap()
        page.wait_for_url("**/?image=*")


def test_what_goes_wrong_is_said(open_page, world, tmp_path):
    page = open_page()
    error = page.locator("#error")
    (tmp_path / "notes.txt").write_text("no picture")
    page.set_input_files("#file", tmp_path / "notes.txt")
    expect(error).to_contain_text("notes.txt is not an image in a supported format")
    expect(page.locator("#no-preview")).to_be_visible()
    expect(page.locator("#canvas")).to_be_hidden()
    page.set_input_files("#file", world / "photos" / QUERY)
    page.locator("#results .score").first.wait_for()
    expect(error).to_be_hidden()
    (tmp_path / "large.jpg").write_bytes(bytes(100_001))
    page.set_input_files("#file", tmp_path / "large.jpg")
    expect(error).to_contain_text("large.jpg is too large")
    page = open_page("?image=nothing.png")
    expect_text(page, "#error", "The index has no image nothing.png")
    page = open_page("?" + urllib.parse.urlencode({"image": QUERY, "box": "8,4,400,36"}))
    expect(page.locator("#error")).to_contain_text(
        "the box 8,4,400,36 is not inside", ignore_case=True
    )


def test_a_picture_can_be_dropped_and_the_server_may_be_busy(open_page, world, service):
    page = open_page()
    taken, service.searches._left = service.searches._left, 0
    data = list((world / "photos" / QUERY).read_bytes())
    page.evaluate("""data => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([new Uint8Array(data)], "dropped.png"));
      document.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true}));
    }""", data)  # fmt: skip
    page.get_by_text("the server is busy").wait_for()
    service.searches._left = taken
    page.locator("#results .score").first.wait_for()
    expect_results(page, [QUERY], 1)
    expect_text(page, "#name", "dropped.png")


def test_the_api_has_its_page(open_page, browser, address):
    page = browser.new_context().new_page()
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address + "docs")
    page.get_by_text("/api/search/descriptor").wait_for()
    assert all(url.startswith((address, "data:")) for url in requests)
