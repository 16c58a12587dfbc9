"""Names that must stay inside a folder."""

from pathlib import Path

import pytest

from dir_jax.errors import UserError
from dir_jax.runtime.files import check_name, inside


@pytest.mark.parametrize("name", ["a.jpg", "./a.jpg", "a/b.jpg", "a..b/..c", "...", "ä b\\c", "a/"])
def test_stays(name):
    assert inside("sets", name) == Path("sets", name)


@pytest.mark.parametrize(
    "name",
    ["/a", "..", "../a", "a/..", "a/../b", "a\\..\\b", "\\a", "C:\\a", "c:a", "//a"],
)
def test_leads_out(name):
    with pytest.raises(UserError) as e:
        inside("sets", name)
    assert (
        str(e.value) == f"{name!r} is not a name inside sets: expected a relative path without '..'"
    )


def test_long_names_are_cut():
    with pytest.raises(UserError, match=r"^'/[/x]{137}…[/x]{59}' is not a name inside"):
        inside("sets", "/x" * 2000)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "is not a name: it "),
        ("a\0b", "is not a name: it "),
        ("a\x1b[2J.jpg", "is not a name: it "),
        ("a\nb.jpg", "is not a name: it "),
        ("\ud800.jpg", "is not a name: it "),
        ("x" * 256, "is too long for a name"),
        ("é" * 128, "is too long for a name"),
        ("é/" * 1400, "is too long for a name"),
    ],
)
def test_names_that_no_file_has(name, problem):
    for check in (check_name, lambda name: inside("sets", name)):
        with pytest.raises(UserError, match=problem) as e:
            check(name)
        assert len(str(e.value)) < 300
        assert str(e.value).isprintable()
