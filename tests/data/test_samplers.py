"""Samplers: what is in a batch, how often each image comes, and that a step alone decides."""

from __future__ import annotations

import logging
import pickle
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dir_jax.data.samplers import ClassesByImages, EveryClass, Listed, Sampler, Shuffle
from dir_jax.errors import UserError


def labels_of(sizes: list[int], seed: int = 0) -> np.ndarray:
    """Labels in random order, `sizes[c]` of class c."""
    labels = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    return np.random.default_rng(seed).permutation(labels)


def batches(sampler: Sampler, steps: int) -> np.ndarray:
    return np.stack([sampler(step) for step in range(steps)])


def counts_by_class(labels: np.ndarray, batch: np.ndarray) -> list[int]:
    return np.bincount(labels[batch], minlength=labels.max() + 1).tolist()


LABELS = labels_of([9, 4, 30, 2, 7, 1, 12])
SAMPLERS = {
    "shuffle": lambda seed: Shuffle(len(LABELS), 17, seed),
    "every_class": lambda seed: EveryClass(LABELS, 24, seed),
    "every_class_in_turns": lambda seed: EveryClass(LABELS, 6, seed),
    "classes_by_images": lambda seed: ClassesByImages(labels_of([9, 4, 30, 2, 7]), 3, 4, seed),
}


@pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS.keys())
class TestEverySampler:
    def test_only_seed_and_step_decide(self, make):
        forwards = batches(make(5), 30)
        assert forwards.dtype == np.int64
        assert forwards.shape == (30, make(5).batch_size)
        sampler = make(5)
        for step in (29, 3, 3, 11, 0):  # jumps, and the same step again
            np.testing.assert_array_equal(sampler(step), forwards[step])
        np.testing.assert_array_equal(make(5)(10**6), sampler(10**6))

    def test_seeds_and_steps_differ(self, make):
        one, other = batches(make(5), 4), batches(make(6), 4)
        assert not np.array_equal(one, other)
        assert len({batch.tobytes() for batch in one}) == 4

    def test_pickles_without_what_it_keeps(self, make):
        sampler = make(5)
        expected = sampler(7).copy()
        again = pickle.loads(pickle.dumps(sampler))
        np.testing.assert_array_equal(again(7), expected)
        assert len(pickle.dumps(sampler)) == len(pickle.dumps(make(5)))

    def test_asking_again_is_cheap_and_safe(self, make):
        sampler = make(5)
        first = sampler(2)
        assert sampler(2) is first
        with pytest.raises(ValueError, match="read-only"):
            first[0] = 0


class TestShuffle:
    def test_epochs_have_every_image_once_across_batches(self):
        drawn = batches(Shuffle(10, 4, 0), 15).ravel()
        epochs = drawn.reshape(6, 10)
        np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(10), (6, 1)))
        assert len({e.tobytes() for e in epochs}) == 6

    def test_batch_larger_than_the_data(self):
        drawn = batches(Shuffle(3, 8, 0), 3).ravel()
        np.testing.assert_array_equal(
            np.sort(drawn.reshape(8, 3), axis=1), np.tile(np.arange(3), (8, 1))
        )


class TestListed:
    def test_in_order(self):
        sampler = Listed(np.array([5, 3, 9, 1]), 2)
        assert batches(sampler, 2).tolist() == [[5, 3], [9, 1]]
        with pytest.raises(IndexError):
            sampler(2)

    def test_batch_size_that_does_not_divide_the_list(self):
        with pytest.raises(ValueError, match="reshape"):
            Listed(np.arange(5), 2)


class TestEveryClass:
    def test_equal_shares(self):
        labels = labels_of([10, 20, 5, 40])
        for batch in batches(EveryClass(labels, 20, 0), 30):
            assert counts_by_class(labels, batch) == [5, 5, 5, 5]
            assert len(np.unique(batch)) == 20

    def test_small_classes_give_all_and_others_make_up_for_it(self):
        labels = labels_of([10, 1, 3, 10])
        for batch in batches(EveryClass(labels, 16, 0), 20):
            assert counts_by_class(labels, batch) == [6, 1, 3, 6]
            assert len(np.unique(batch)) == 16

    def test_remainder_goes_round(self):
        """3 classes, 10 rows: each class has the fourth row once in three steps."""
        labels = labels_of([20, 20, 20])
        counts = np.array(
            [counts_by_class(labels, b) for b in batches(EveryClass(labels, 10, 0), 30)]
        )
        assert np.sort(counts, axis=1).tolist() == [[3, 3, 4]] * 30
        assert counts.reshape(10, 3, 3).sum(axis=1).tolist() == [[10, 10, 10]] * 10

    @settings(max_examples=60, deadline=None)
    @given(
        sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
        share=st.floats(0, 1),
        seed=st.integers(0, 1000),
    )
    def test_shares_are_as_equal_as_can_be_and_images_are_seen_equally(self, sizes, share, seed):
        labels = labels_of(sizes, seed)
        least = sum(min(n, 2) for n in sizes)
        batch_size = round(least + share * (len(labels) - least))
        sampler = EveryClass(labels, batch_size, seed)
        seen = np.zeros(len(labels), int)
        for batch in batches(sampler, 40):
            assert len(np.unique(batch)) == batch_size
            counts = counts_by_class(labels, batch)
            assert all(k >= min(n, 2) for k, n in zip(counts, sizes, strict=True))
            # A class has two fewer than another only where it has no more to give.
            assert all(k == n or k >= max(counts) - 1 for k, n in zip(counts, sizes, strict=True))
            seen[batch] += 1
            for c in range(len(sizes)):  # at any time
                of_class = seen[labels == c]
                assert of_class.max() - of_class.min() <= 1

    def test_walks_are_random(self):
        """An image's companions of its class change: all 19 others come up in 400 batches."""
        labels = labels_of([20, 20])
        companions = set()
        image = int(np.flatnonzero(labels == 0)[0])
        for batch in batches(EveryClass(labels, 9, 0), 400):
            if image in batch:
                companions |= set(batch[labels[batch] == 0].tolist())
        assert len(companions) == 20

    def test_rows_are_in_random_order(self):
        labels = labels_of([20, 20])
        first_rows = labels[batches(EveryClass(labels, 10, 0), 200)[:, 0]]
        assert 70 < first_rows.sum() < 130  # 4.2 standard deviations of a fair coin

    def test_turns_where_the_batch_is_too_small(self, caplog):
        sizes = [5, 9, 2, 1, 30, 4, 8, 3, 3, 6]
        labels = labels_of(sizes)
        with caplog.at_level(logging.WARNING):
            sampler = EveryClass(labels, 6, 0)
            drawn = batches(sampler, 40)
        assert [r.getMessage() for r in caplog.records] == [
            "a batch of 6 images is too small for two of each of the 10 classes: the classes take "
            "turns, 3 in each batch"
        ]
        visits = np.zeros(len(sizes), int)
        seen = np.zeros(len(labels), int)
        for batch in drawn:
            counts = np.array(counts_by_class(labels, batch))
            assert sorted(counts.tolist())[-4:] == [0, 2, 2, 2]
            assert len(np.unique(batch)) == 6 - counts[3] // 2  # the lone image comes twice
            visits += counts > 0
            assert visits.max() - visits.min() <= 1
            np.add.at(seen, batch, 1)
            for c in range(len(sizes)):
                assert np.ptp(seen[labels == c]) <= 1
        groups = {tuple(np.unique(labels[b])) for b in drawn}
        assert len(groups) > 20  # classes meet others each time

    def test_odd_batch_of_turns(self):
        with pytest.raises(UserError, match="make it an even number"):
            EveryClass(labels_of([5] * 10), 7, 0)

    def test_batch_larger_than_the_data(self):
        with pytest.raises(UserError, match="batch of 11 different images cannot be drawn from 10"):
            EveryClass(labels_of([5, 5]), 11, 0)

    def test_classes_without_images_do_not_count(self):
        labels = np.array([0, 0, 0, 5, 5, 5])
        assert sorted(labels[EveryClass(labels, 4, 0)(0)].tolist()) == [0, 0, 5, 5]

    def test_fast_enough_for_landmarks(self):
        """As many classes and images as Landmarks-clean, and the paper's batch of 4096."""
        sampler = EveryClass(np.arange(42_410) % 672, 4096, 0)
        start = time.perf_counter()
        for step in range(5):
            sampler(step)
        assert (time.perf_counter() - start) / 5 < 0.5  # a step takes minutes


class TestClassesByImages:
    def test_shape_and_turns(self):
        sizes = [10, 4, 7, 5, 20, 6, 9]
        labels = labels_of(sizes)
        visits, seen = np.zeros(7, int), np.zeros(len(labels), int)
        for batch in batches(ClassesByImages(labels, 3, 4, 0), 70):
            counts = np.array(counts_by_class(labels, batch))
            assert sorted(counts.tolist()) == [0, 0, 0, 0, 4, 4, 4]
            assert len(np.unique(batch)) == 12
            visits += counts > 0
            assert np.ptp(visits) <= 1
            seen[batch] += 1
            assert all(np.ptp(seen[labels == c]) <= 1 for c in range(7))
        assert visits.tolist() == [30] * 7

    def test_classes_meet_in_new_groups(self):
        labels = labels_of([4] * 20)
        groups = {
            tuple(np.unique(labels[b])) for b in batches(ClassesByImages(labels, 4, 2, 0), 50)
        }
        assert len(groups) > 40  # of 4845; a fixed order would give 5

    def test_small_class_repeats_evenly(self):
        labels = labels_of([3, 50])
        for batch in batches(ClassesByImages(labels, 2, 8, 0), 9):
            counts = np.bincount(batch, minlength=53)
            assert sorted(counts[labels == 0].tolist()) == [2, 3, 3]
            assert counts[labels == 1].max() == 1

    def test_class_with_one_image(self):
        labels = np.array([0, 0, 1, 2, 2, 3])
        with pytest.raises(UserError, match=r"two images, .* only one: bridge, tower; rem"):
            ClassesByImages(labels, 2, 2, 0, class_names=["a", "bridge", "b", "tower"])
        assert ClassesByImages(labels, 4, 1, 0)(0).shape == (4,)  # no pairs are needed

    def test_more_classes_than_there_are(self):
        with pytest.raises(UserError, match=r"batch of 5 classes .* only 3"):
            ClassesByImages(labels_of([4, 4, 4]), 5, 2, 0)
