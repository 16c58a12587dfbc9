"""Walking over rows in blocks of one size, so that one compiled program serves all of them."""

from __future__ import annotations

from collections.abc import Iterator


def blocks(total: int, size: int) -> Iterator[tuple[int, int]]:
    """Covers `total` rows with blocks of exactly `size` rows; needs 1 <= size <= total.

    The last block is moved back to end at the last row instead of being padded, so it may repeat
    rows of the block before it.

    Yields:
      (start, first_new): the block is rows start .. start + size - 1, of which those from
      first_new on were in no block before.
    """
    for first_new in range(0, total, size):
        yield min(first_new, total - size), first_new
