"""The JSON API: what it finds, what it refuses, and what it keeps to itself."""

import base64
import http.client
import io
import json
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from dir_jax.errors import UserError
from dir_jax.serving.app import create_app
from dir_jax.serving.batching import Batcher
from dir_jax.serving.decoding import Decoders, Job
from dir_jax.serving.guard import check_origin
from dir_jax.serving.searching import Query
from dir_jax.serving.service import Limits, Service

from .conftest import COUNT

NAME = "a b/3.png"
FAR = {"Origin": "https://elsewhere.example"}


@pytest.fixture(scope="module")
def client(service):
    with TestClient(create_app(service), base_url="http://localhost") as client:
        yield client


def as_file(pixels, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def post(client, data, **parameters):
    return client.post("/api/search", content=data, params=parameters)


def test_the_index_and_its_images(client):
    about = client.get("/api/index").json()
    assert about | {"recipe": "", "version": ""} == {
        "name": "my.index", "images": COUNT + 2, "dimensions": 36, "engine": "exact",
        "recipe": "", "exif": False, "largest_upload": 100_000, "most_pixels": 90_000,
        "version": "",
    }  # fmt: skip
    page = client.get("/api/images", params={"offset": COUNT - 1, "top": 2}).json()
    assert page == {"names": [f"a b/{COUNT - 1}.png", "gone.png"], "more": True}
    assert client.get("/api/images", params={"offset": 500}).json() == {"names": [], "more": False}


def test_a_picture_finds_what_the_index_finds(client, world, searcher):
    data = (world / "photos" / NAME).read_bytes()
    expected = searcher.index.search(world / "photos" / NAME, 5)
    answer = post(client, data, top=5).json()
    assert [r["name"] for r in answer["results"]] == expected.names[0]
    assert [r["rank"] for r in answer["results"]] == [1, 2, 3, 4, 5]
    scores = [r["score"] for r in answer["results"]]
    np.testing.assert_allclose(scores, expected.scores[0], atol=1e-5)
    assert answer["more"]
    assert (answer["query"]["width"], answer["query"]["height"]) == (64, 48)

    box = (8, 4, 40, 36)
    expected = searcher.index.search(world / "photos" / NAME, 5, box=box)
    boxed = post(client, data, top=5, box="8,4,40,36").json()
    np.testing.assert_allclose(
        [r["score"] for r in boxed["results"]], expected.scores[0], atol=1e-5
    )
    again = client.get("/api/search", params={"image": NAME, "top": 5, "box": "8,4,40,36"}).json()
    assert [r["name"] for r in again["results"]] == [r["name"] for r in boxed["results"]]
    assert again["query"] == boxed["query"] | {"image": NAME}


def test_scrolling_shows_each_image_once_in_order(client):
    first = client.get("/api/search", params={"image": NAME}).json()
    assert first["results"][0]["name"] == NAME
    assert len(first["results"]) == 40
    descriptor = base64.b64decode(first["query"]["descriptor"])
    found = first["results"]
    for offset in (40, 80):
        by_name = client.get("/api/search", params={"image": NAME, "offset": offset}).json()
        by_descriptor = client.post(
            "/api/search/descriptor", content=descriptor, params={"offset": offset}
        ).json()
        assert by_name["results"] == by_descriptor["results"]
        assert by_name["more"] == by_descriptor["more"] == (offset == 40)
        found += by_name["results"]
    assert [r["rank"] for r in found] == list(range(1, COUNT + 3))
    assert len({r["name"] for r in found}) == COUNT + 2
    scores = [r["score"] for r in found]
    assert scores == sorted(scores, reverse=True)


def test_copies_of_images(client):
    small = client.get("/api/thumbnail", params={"image": NAME})
    large = client.get("/api/picture", params={"image": NAME})
    for answer in (small, large):
        assert answer.headers["content-type"] == "image/jpeg"
        assert Image.open(io.BytesIO(answer.content)).size == (64, 48)
    assert large.headers["picture-size"] == "64x48"
    turned = io.BytesIO()
    Image.new("RGB", (20, 10)).save(turned, "TIFF")
    sent = client.post("/api/picture", content=turned.getvalue())
    assert (sent.headers["picture-size"], sent.headers["cache-control"]) == ("20x10", "no-store")
    assert Image.open(io.BytesIO(sent.content)).format == "JPEG"


@pytest.mark.parametrize("path", ["/api/thumbnail", "/api/picture", "/api/search"])
def test_nothing_but_the_index_is_served(client, world, path):
    part = {"box": "0,0,9,9"}
    for name, why in (
        ("../list.txt", "has no image"), ("list.txt", "has no image"), ("/etc/passwd", "has no"),
        ("gone.png", "there is no image file"), ("", "has no image"),
        (str(world / "outside.png"), "is not in the folder of the index"),
    ):  # fmt: skip
        answer = client.get(path, params={"image": name} | part)
        assert answer.status_code in (400, 404), name
        assert why in answer.json()["error"]
        assert len(answer.json()) == 1
    for address in ("/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/passwd",
                    "/static-offline-docs/../core.py", "/my.index", "/api/nothing"):  # fmt: skip
        assert client.get(address).status_code == 404


def test_bad_requests_are_one_line(client, service):
    picture = as_file(np.zeros((40, 40, 3), np.uint8))
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    size = len(service.index.descriptors[0].tobytes())
    for answer, status, why in (
        (post(client, b"no picture", name="a.jpg"), 400, "a.jpg is not an image in a supported"),
        (post(client, picture[:-40]), 400, "the image upload cannot be read"),
        (post(client, b""), 400, "the request is empty"),
        (post(client, as_file(noise)), 413, "more than 100,000 bytes"),
        (post(client, iter([bytes(60_000)] * 2)), 413, "more than 100,000 bytes"),
        (post(client, as_file(np.zeros((301, 300, 3), np.uint8))), 413, "more than the 90,000"),
        (post(client, picture, box="1,2,3"), 400, "the box is '1,2,3'; expected left,top"),
        (post(client, picture, box="0,0,50,9"), 400, "is not inside the image upload, which has"),
        (post(client, picture, top=0), 422, "top: Input should be greater"),
        (post(client, picture, offset="x"), 422, "offset: Input should be a valid integer"),
        (client.get("/api/search"), 422, "image: Field required"),
        (client.post("/api/search/descriptor", content=bytes(9)), 400, "36 finite float32"),
        (client.post("/api/search/descriptor", content=b"\xff" * size), 400, "36 finite float32"),
        (client.post("/api/picture", content=b"no picture"), 400, "not an image in a supported"),
        (client.post("/api/picture", content=bytes(100_001)), 413, "more than 100,000 bytes"),
        (client.delete("/api/search"), 405, "Method Not Allowed"),
    ):
        assert answer.status_code == status, answer.text
        assert list(answer.json()) == ["error"]
        assert why in answer.json()["error"]
        assert "\n" not in answer.json()["error"]
    assert post(client, picture).status_code == 200


def test_other_sites_are_refused_unless_allowed(client, service):
    own = {"Origin": "http://localhost"}
    strange = {"Host": "evil.example"}
    image = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    link = image | {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    frame = link | {"Sec-Fetch-Dest": "iframe"}
    for headers, status in (
        (FAR, 403), ({"Origin": "null"}, 403), (own, 200), (strange, 421), (image, 403),
        (frame, 403), (link, 200), ({"Host": "[::1]:8000"}, 200), ({"Host": "10.0.0.7"}, 200),
        ({"Host": "localhost.evil.example"}, 421), ({"Host": "[x"}, 400),
    ):  # fmt: skip
        answer = client.get("/api/index", headers=headers)
        assert answer.status_code == status, headers
        assert "access-control-allow-origin" not in answer.headers
    allowed = create_app(service, origins=[check_origin(FAR["Origin"] + "/")])
    with TestClient(allowed, base_url="http://localhost") as other:
        for headers in (FAR, FAR | image, image | {"Referer": FAR["Origin"] + "/x"}):
            assert other.get("/api/index", headers=headers).status_code == 200
        answer = other.get("/api/index", headers=FAR)
        assert answer.headers["access-control-allow-origin"] == FAR["Origin"]
        asks = FAR | {"Access-Control-Request-Method": "POST"}
        assert other.options("/api/search", headers=asks).status_code == 200
        assert other.get("/api/index", headers={"Host": "elsewhere.example"}).status_code == 200
        assert other.get("/api/index", headers={"Origin": "https://x.example"}).status_code == 403
    assert check_origin("https://Photos.example:443/") == "https://photos.example"
    for bad in ("elsewhere.example", "https://a/b", "*", "ftp://a", "https://a:x"):
        with pytest.raises(UserError, match="expected such as https:"):
            check_origin(bad)


def test_pages_need_no_other_server(client):
    for path in ("/", "/docs"):
        answer = client.get(path)
        assert "://" not in answer.text
        assert "<script>" not in answer.text
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        addresses = [part.split('"')[0] for part in answer.text.split('="/')[1:]]
        assert len(addresses) > 3
        assert {client.get(f"/{address}").status_code for address in addresses} == {200}
    schema = client.get("/openapi.json").json()
    assert {"/api/search", "/api/search/descriptor", "/api/thumbnail"} < set(schema["paths"])


def test_a_full_queue_answers_503(searcher):
    started, going_on = threading.Event(), threading.Event()

    class Slow:
        index = searcher.index

        def __call__(self, queries):
            started.set()
            going_on.wait(60)
            return searcher(queries)

    service = Service(Slow(), Limits(queue=2))
    parameters = {"image": NAME, "top": 1}
    with TestClient(create_app(service), base_url="http://localhost") as client:
        with ThreadPoolExecutor(2) as pool:
            try:
                waiting = [pool.submit(client.get, "/api/search", params=parameters) for _ in "ab"]
                assert started.wait(60)
                while service.searches._left:
                    time.sleep(0.01)
                answer = client.get("/api/search", params=parameters)
                assert answer.status_code == 503
                assert answer.headers["retry-after"] == "1"
                assert "as many requests wait as may" in answer.json()["error"]
                assert client.get("/api/index").status_code == 200
            finally:
                going_on.set()
            assert [future.result().status_code for future in waiting] == [200, 200]
        assert client.get("/api/search", params=parameters).status_code == 200
    service.close()


def test_32_clients_and_1000_queries_without_an_error(address, world):
    files = [(world / f"photos/a b/{i}.png").read_bytes() for i in range(8)]
    host, wrong = urllib.parse.urlsplit(address).netloc, []

    def client(start):
        connection = http.client.HTTPConnection(host, timeout=300)
        for i in range(start, 1000, 32):
            if i % 4:
                connection.request("GET", f"/api/search?image=a%20b/{i % 8}.png&top=1")
            else:
                connection.request("POST", "/api/search?top=1", files[i % 8])
            answer = connection.getresponse()
            found = json.loads(answer.read())
            if answer.status != 200 or found["results"][0]["name"] != f"a b/{i % 8}.png":
                wrong.append(found)
        connection.close()
        return True

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(client, range(32)))
    assert wrong == []


def test_one_bad_query_does_not_spoil_the_others(searcher):
    pictures = [np.full((48, 64, 3), 99, np.uint8), np.zeros((9, 1001, 3), np.uint8)]
    good, bad = searcher([Query(picture, 2) for picture in pictures])
    assert good.rows.shape == (2,)
    assert isinstance(bad, UserError)
    assert "1001 x 9 pixels" in str(bad)


def test_what_waits_is_answered_together():
    seen, going_on = [], threading.Event()

    def answer(queries):
        seen.append(len(queries))
        going_on.wait(60)
        if "bad" in queries:
            raise ValueError("a bug")
        return [query.upper() for query in queries]

    batcher = Batcher(answer, 4)
    first = batcher.submit("a")
    while not seen:
        time.sleep(0.001)
    others = [batcher.submit(letter) for letter in "bcdefg"]
    others[1].cancel()
    going_on.set()
    assert first.result(60) == "A"
    assert [future.result(60) for future in others if not future.cancelled()] == [*"BDEFG"]
    assert seen[0] == 1
    assert max(seen) <= 4
    assert len(seen) <= 4
    with pytest.raises(ValueError, match="a bug"):
        batcher.submit("bad").result(60)
    assert batcher.submit("x").result(60) == "X"
    batcher.close()


def test_a_decoder_that_takes_too_long_is_ended(tmp_path):
    decoders = Decoders(1, exif=False, seconds=1e-6)
    data = as_file(np.random.default_rng(0).integers(0, 256, (3000, 3000, 3), np.uint8))
    first = decoders._all[0]._process
    with pytest.raises(UserError, match="takes longer than the 1e-06 seconds"):
        decoders.decode(Job(data, "slow.png"))
    assert not first.is_alive()
    decoders._seconds = 60
    small = as_file(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    np.testing.assert_array_equal(
        decoders.decode(Job(small, "x")).pixels(), np.arange(12).reshape(2, 2, 3)
    )
    decoders._all[0]._process.kill()
    with pytest.raises(UserError, match="the image x cannot be decoded"):
        decoders.decode(Job(small, "x"))
    assert decoders.decode(Job(small, "x")).size == (2, 2)
    decoders.close()
    assert not decoders._all[0]._process.is_alive()
    with pytest.raises(UserError, match="the image x cannot be decoded"):
        decoders.decode(Job(small, "x"))
    assert not decoders._all[0]._process.is_alive()
