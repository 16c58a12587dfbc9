"""Names that must stay inside a folder."""

from pathlib import Path

import pytest

from dir_jax.errors import UserError
from dir_jax.runtime.files import inside


@pytest.mark.parametrize("name", ["a.jpg", "./a.jpg", "a/b.jpg", "a..b/..c", "...", "ä b\\c", "a/"])
def test_stays(name):
    assert inside("sets", name) == Path("sets", name)


@pytest.mark.parametrize(
    "name",
    ["", "/a", "..", "../a", "a/..", "a/../b", "a\\..\\b", "\\a", "C:\\a", "c:a", "a\0b", "//a"],
)
def test_leads_out(name):
    with pytest.raises(UserError) as e:
        inside("sets", name)
    assert (
        str(e.value) == f"{name!r} is not a name inside sets: expected a relative path without '..'"
    )


def test_long_names_are_cut():
    with pytest.raises(UserError, match=r"^'/x{199}'… is not"):
        inside("sets", "/" + "x" * 10_000)
