"""What several processes that describe one list agree on; they are played by functions here."""

import numpy as np
import pytest

from dir_jax.data.images import ImageDataset
from dir_jax.describe import image_lists
from dir_jax.describe.image_lists import ImageList, agree
from dir_jax.errors import UserError

IMAGES = ImageDataset([f"{i}.jpg" for i in range(4)])
SIZES = np.array([[10, 20], [0, 0], [30, 40], [50, 60]])
MISSING = {1: "there is no image file 1.jpg"}


@pytest.fixture
def compared(monkeypatch):
    """What is compared with another process, which cannot read number 3."""
    found = []
    other = {3: "torn (in process 1 of 2)"}
    monkeypatch.setattr(image_lists, "gather", lambda own: {**own, **other})

    def have_the_same(data):
        if data == np.array([1]).tobytes():  # what this process cannot read
            return False
        found.append(data)
        return True

    monkeypatch.setattr(image_lists, "have_the_same", have_the_same)
    return found


def test_what_one_cannot_read_none_uses(compared):
    images = agree(ImageList("eval", IMAGES, SIZES, MISSING), skip=True)
    assert images.unreadable == {**MISSING, 3: "torn (in process 1 of 2)"}
    assert compared == [SIZES[[0, 2]].tobytes()]


def test_what_is_chosen_is_compared_alone(compared):
    chosen = np.array([3, 0])
    images = agree(ImageList("mine", IMAGES, SIZES, {}, chosen), skip=False)
    assert images.unreadable == {}
    assert compared == [SIZES[[3, 0]].tobytes()]


def test_the_process_that_cannot_read_says_so_itself(compared):
    assert agree(ImageList("eval", IMAGES, SIZES, MISSING), skip=False).unreadable == MISSING
    assert compared == []


def test_other_copies_are_refused(compared, monkeypatch):
    monkeypatch.setattr(image_lists, "have_the_same", lambda data: False)
    with pytest.raises(UserError, match=r"different copies of some images \(eval\)"):
        agree(ImageList("eval", IMAGES, SIZES, MISSING), skip=True)
