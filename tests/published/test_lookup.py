"""Where a published model is looked for, and what servers can do meanwhile."""

import dataclasses
import hashlib
import threading

import pytest

from dir_jax.errors import UserError
from dir_jax.published import PUBLISHED, known_names, published_name
from dir_jax.published.lookup import find_file, find_here

CIRTORCH, TORCHVISION, DIR = "gl18-tl-resnet101-gem-w", "resnet101-imagenet", "Resnet101-AP-GeM"
CONTENT = bytes(range(128, 228)) * 2000  # of 200 kB
DRIVE = "/uc?export=download&id=X"
PAGE = b"""<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<form id="download-form" action="/download" method="get"><input type="submit" value="Download">
<input type="hidden" name="id" value="X"><input type="hidden" name="confirm" value="t">
<input type="hidden" name="uuid" value="1-2"></form></body></html>"""
CONFIRMED = "/download?id=X&confirm=t&uuid=1-2"


class TestTable:
    def test_has_every_model(self):
        families = [model.family.title.split()[0] for model in PUBLISHED.values()]
        counts = {title: families.count(title) for title in families}
        assert counts == {"Deep": 5, "CNN": 7, "ImageNet": 3, "torchvision,": 7, "torchvision's": 7}

    def test_rows_agree_with_themselves(self):
        for name, model in PUBLISHED.items():
            assert model.address.startswith(("http://cmp.felk.cvut.cz/", "https://"))
            assert model.digits in model.file
            assert model.family.licence
            model.used.check(name)
            model.used.transforms()
        digits = [len(model.digits) for model in PUBLISHED.values()]
        assert {n: digits.count(n) for n in digits} == {0: 12, 7: 10, 8: 7}
        assert PUBLISHED[TORCHVISION].file == "resnet101-63fe2227.pth"
        assert PUBLISHED[f"{TORCHVISION}-v2"].file == "resnet101-cd907fc2.pth"
        assert len(dict(known_names())) == len(set(known_names()))  # none is ambiguous

    def test_names_with_and_without_digits(self):
        assert published_name(CIRTORCH) == published_name(f"{CIRTORCH}-a4d43db") == CIRTORCH
        assert published_name("resnet50.tv_in1k") == "timm/resnet50.tv_in1k"
        assert published_name("resnet50") is None


class TestFolders:
    @pytest.mark.parametrize("file", [
        "gl18-tl-resnet101-gem-w-a4d43db.pth", "gl18-tl-resnet101-gem-w.pth.tar",
        "gl18-tl-resnet101-gem-w-a4d43db.safetensors", "gl18-tl-resnet101-gem-w",
    ])  # fmt: skip
    def test_by_its_published_name_with_any_suffix(self, world, file):
        world.publish(CIRTORCH, CONTENT)
        world.use_own()
        (world.own / file).write_bytes(CONTENT)
        (world.own / f"{file}.partial").write_bytes(b"")
        (world.own / "gl18-tl-resnet101-gem-w-v2.pth").write_bytes(b"another")
        assert find_file(CIRTORCH) == find_here(CIRTORCH) == world.own / file
        assert world.server.requests == []

    def test_the_name_of_the_file_in_the_archive(self, world):
        world.use_own()
        (world.own / "Resnet-101-AP-GeM.pt").write_bytes(CONTENT)
        assert find_file(DIR) == world.own / "Resnet-101-AP-GeM.pt"

    def test_own_folder_comes_before_the_cache(self, world):
        world.publish(DIR, CONTENT)
        in_cache = find_file(DIR)
        assert in_cache == world.cache / f"{DIR}.zip"
        world.use_own()
        assert find_file(DIR) == in_cache
        (world.own / f"{DIR}.pt").write_bytes(CONTENT)
        assert find_file(DIR) == world.own / f"{DIR}.pt"

    def test_own_folder_that_is_not_there(self, world, monkeypatch):
        monkeypatch.setenv("DIR_MODELS", "/no/such/folder")
        with pytest.raises(UserError, match="there is no folder /no/such/folder; DIR_MODELS"):
            find_file(DIR)


class TestFetching:
    def test_once(self, world):
        model = world.publish(CIRTORCH, CONTENT)
        assert find_here(CIRTORCH) is None
        file = find_file(CIRTORCH)
        assert file.read_bytes() == CONTENT
        assert find_file(CIRTORCH) == file
        assert world.server.paths == [f"/{model.file}"]
        assert world.kept == [model.file]

    def test_mirror_comes_first(self, world):
        world.publish(DIR, CONTENT)
        world.use_mirror()
        world.server.files["/mirror/Resnet-101-AP-GeM.pt"] = CONTENT
        assert find_file(DIR) == world.cache / "Resnet-101-AP-GeM.pt"
        assert world.server.paths == [f"/mirror/{DIR}.zip", "/mirror/Resnet-101-AP-GeM.pt"]

    def test_mirror_that_lacks_it(self, world):
        world.publish(TORCHVISION, CONTENT)
        world.use_mirror()
        assert find_file(TORCHVISION).read_bytes() == CONTENT
        file = PUBLISHED[TORCHVISION].file
        assert world.server.paths == [f"/mirror/{file}", f"/{file}"]

    def test_mirror_that_is_no_address(self, world, monkeypatch):
        monkeypatch.setenv("DIR_MODELS_URL", "file:///etc")
        with pytest.raises(UserError, match="DIR_MODELS_URL is file:///etc; expected an http"):
            find_file(DIR)

    def test_redirect(self, world):
        model = world.publish(CIRTORCH, CONTENT, path="/old.pth")
        world.server.redirect("/old.pth", "/new/place")
        world.server.files["/new/place"] = CONTENT
        assert find_file(CIRTORCH) == world.cache / model.file

    @pytest.mark.parametrize("ranges", [True, False])
    def test_resumes_after_a_cut(self, world, ranges):
        model = world.publish(TORCHVISION, CONTENT)
        world.server.ranges = ranges
        world.server.cuts = [90_000, 0, 0, 0, 0, 0] if ranges else [90_000] * 6
        with pytest.raises(UserError, match=r"5 times in a row \(90,000 bytes are kept\)"):
            find_file(TORCHVISION)
        assert world.kept == []
        world.server.recover()
        assert find_file(TORCHVISION).read_bytes() == CONTENT
        assert world.server.starts(f"/{model.file}") == [90_000]

    def test_two_at_once_fetch_once(self, world):
        model = world.publish(TORCHVISION, CONTENT)
        world.server.pause = 0.005
        found = []
        threads = [
            threading.Thread(target=lambda: found.append(find_file(TORCHVISION))) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [world.cache / model.file] * 3
        assert world.server.paths == [f"/{model.file}"]

    def test_offline(self, world):
        world.publish(DIR)
        address = f"{world.server.address}0"  # nothing listens there
        row = dataclasses.replace(PUBLISHED[DIR], address=f"{address}/x")
        world.monkeypatch.setitem(PUBLISHED, DIR, row)
        with pytest.raises(UserError) as e:
            find_file(DIR)
        message = str(e.value)
        assert message.isprintable()
        assert f"put the file {DIR}.zip, from {address}/x, into {world.cache}" in message
        world.use_own()
        with pytest.raises(UserError, match=f"into {world.own}$"):
            find_file(DIR)

    def test_full_disk(self, world, monkeypatch):
        world.publish(DIR)
        from dir_jax.published import lookup

        def full(*args, **options):
            raise OSError(28, "No space left on device", "/cache/x.partial")

        monkeypatch.setattr(lookup, "fetch_file", full)
        with pytest.raises(UserError, match=r"/cache/x.partial: No space left on device; "):
            find_file(DIR)


class TestHashes:
    def test_torchvision_is_refused_and_put_aside(self, world):
        model = world.publish(TORCHVISION, CONTENT, right=False)
        with pytest.raises(UserError) as e:
            find_file(TORCHVISION)
        aside = world.cache / f"{model.file}.refused"
        assert f"which should begin with {model.digits}; it is kept as {aside}" in str(e.value)
        assert aside.read_bytes() == CONTENT
        assert world.kept == [aside.name]
        world.publish(TORCHVISION, CONTENT[::-1])
        assert find_file(TORCHVISION).read_bytes() == CONTENT[::-1]

    def test_torchvision_of_the_users_is_refused_where_it_is(self, world):
        model = world.publish(TORCHVISION, CONTENT, right=False)
        world.use_own()
        (world.own / model.file).write_bytes(CONTENT)
        with pytest.raises(UserError, match="replace it by the file from http"):
            find_file(TORCHVISION)
        assert (world.own / model.file).read_bytes() == CONTENT

    def test_damaged_in_the_cache(self, world):
        model = world.publish(TORCHVISION, CONTENT)
        find_file(TORCHVISION).write_bytes(b"damaged")
        with pytest.raises(UserError, match=r"is kept as .*\.refused"):
            find_file(TORCHVISION)
        assert find_file(TORCHVISION).read_bytes() == CONTENT
        assert world.server.paths == [f"/{model.file}"] * 2

    def test_cirtorch_is_warned_about(self, world, caplog):
        model = world.publish(CIRTORCH, CONTENT, right=False)
        assert find_file(CIRTORCH).read_bytes() == CONTENT
        warning = caplog.messages[-1]
        assert hashlib.sha256(CONTENT).hexdigest() in warning
        assert f"should begin with {model.digits}; it is used all the same" in warning


class TestPages:
    def serve(self, world, page=PAGE):
        world.publish(DIR, CONTENT, path=DRIVE)
        world.server.files[DRIVE], world.server.files[CONFIRMED] = page, CONTENT

    def test_page_that_asks_to_confirm(self, world):
        self.serve(world)
        assert find_file(DIR).read_bytes() == CONTENT
        assert world.server.paths == [DRIVE, CONFIRMED]

    def test_link_that_confirms(self, world):
        self.serve(world, b'<html><a href="/download?id=X&amp;confirm=t&amp;uuid=1-2">yes</a>')
        assert find_file(DIR).read_bytes() == CONTENT

    def test_cut_behind_the_page(self, world):
        self.serve(world)
        world.server.cuts = [10**9, 90_000, 0, 0, 0, 0, 0]
        with pytest.raises(UserError, match="90,000 bytes are kept"):
            find_file(DIR)
        world.server.recover()
        assert find_file(DIR).read_bytes() == CONTENT
        assert world.server.starts(CONFIRMED) == [90_000]

    @pytest.mark.parametrize(
        "page",
        [
            b"<html><head><title>Google Drive - Quota\nexceeded</title></head>Too many",
            PAGE.replace(b"/download", b"http://elsewhere.example/download"),
            b"  \n<!doctype HTML><p>Sign in",
        ],
    )
    def test_page_instead_of_the_file(self, world, page):
        self.serve(world, page)
        with pytest.raises(UserError) as e:
            find_file(DIR)
        assert "instead of the file; put the file" in str(e.value)
        assert str(e.value).isprintable()
        assert world.kept == []
        assert world.server.paths == [DRIVE]

    def test_page_after_page(self, world):
        self.serve(world)
        world.server.files[CONFIRMED] = PAGE
        with pytest.raises(UserError, match=r"gives a page, .*Virus scan warning.* instead of"):
            find_file(DIR)
