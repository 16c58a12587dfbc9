"""What answers the requests: searches, copies of images, and uploads within their limits."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping
from typing import Any

import anyio
import numpy as np
from fastapi import HTTPException, Request, Response
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from dir_jax.data.given import read_box
from dir_jax.errors import UserError, shown
from dir_jax.runtime.platforms import count_cores
from dir_jax.search.index import Index
from dir_jax.serving.batching import Batcher
from dir_jax.serving.decoding import Decoded, Decoders, Job, TooLargeError
from dir_jax.serving.searching import MOST_RESULTS, ROWS, Found, Query, Searcher

COPY, THUMBNAIL = 1024, 256
"""The longer sides, in pixels, of the copy that a box is drawn on and of what lists show."""
_COPIES = 256  # that may wait to be made
_NEVER = {"Cache-Control": "no-store"}
_AN_HOUR = {"Cache-Control": "private, max-age=3600"}


@dataclasses.dataclass(frozen=True)
class Limits:
    """What requests may take.

    Attributes:
      size: the most bytes of an upload.
      pixels: the most pixels of an upload.
      queue: how many searches may wait; more are answered by 503.
      decoding: seconds that a picture has to be decoded.
      sending: seconds that an upload has to arrive.
    """

    size: int = 20 << 20
    pixels: int = 20_000_000
    queue: int = 64
    decoding: float = 10
    sending: float = 60


class Info(BaseModel):
    """The index."""

    name: str
    images: int
    dimensions: int
    engine: str
    recipe: str
    exif: bool
    largest_upload: int
    most_pixels: int
    version: str


class Result(BaseModel):
    """An image of the index; the score is the dot product with the query."""

    rank: int
    name: str
    score: float


class Asked(BaseModel):
    """The query: an image of the index or a picture, of a size in pixels; and its descriptor,
    little-endian float32 in base64."""

    image: str | None = None
    width: int | None = None
    height: int | None = None
    box: list[float] | None = None
    descriptor: str


class Answer(BaseModel):
    """What a query found; `more` says whether there is more to be found at a larger offset."""

    query: Asked
    results: list[Result]
    more: bool


class Names(BaseModel):
    """Names of images of the index, in its order."""

    names: list[str]
    more: bool


class Places:
    """How many requests may be under way at once."""

    def __init__(self, most: int):
        self._left = most

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Takes a place; where there is none, the answer is 503."""
        if self._left <= 0:
            why = "as many requests wait as may; ask again in a second"
            raise HTTPException(503, why, {"Retry-After": "1"})
        self._left -= 1
        try:
            yield
        finally:
            self._left += 1


class Service:
    """What answers: an index, the thread that searches it, and the processes that decode.

    Attributes:
      index: the index.
      limits: what requests may take.
      decoders: the processes.
      searches: places for those that may wait.
    """

    def __init__(self, searcher: Searcher, limits: Limits, *, processes: int = 2):
        """`processes` are to decode; at least two do, and at most one for each core."""
        self.index: Index = searcher.index
        self.limits = limits
        self.decoders = Decoders(
            max(2, min(processes, count_cores())),
            exif=self.index.recipe.exif,
            seconds=limits.decoding,
        )
        self._batcher: Batcher[Query, Found] = Batcher(searcher, ROWS[-1])
        self.searches, self._copies = Places(limits.queue), Places(_COPIES)

    def close(self) -> None:
        """Ends the thread and the processes."""
        self._batcher.close()
        self.decoders.close()

    @functools.cached_property
    def _threads(self) -> tuple[anyio.CapacityLimiter, anyio.CapacityLimiter]:
        """Those that wait for pictures, and of these those for copies: one is left for others."""
        count = self.decoders.count
        return anyio.CapacityLimiter(count), anyio.CapacityLimiter(count - 1)

    def row(self, image: str) -> int:
        row = self.index.row(image)
        if row is None:
            raise HTTPException(404, f"the index has no image {shown(image)}")
        return row

    async def decode(self, job: Job) -> Decoded:
        limiter = self._threads[job.side is not None]
        try:
            return await anyio.to_thread.run_sync(self.decoders.decode, job, limiter=limiter)
        except TooLargeError as e:
            raise HTTPException(413, str(e)) from e

    def file(self, image: str) -> str:
        """The path of an image, unless it leads out of the folder of the images."""
        root = os.path.abspath(self.index.root)  # links in it are the user's own
        path = os.path.abspath(self.index.image_path(self.row(image)))
        if os.path.commonpath([root, path]) != root:
            raise HTTPException(404, f"the image {shown(image)} is not in the folder of the index")
        return path

    async def copy(self, image: str, side: int) -> Response:
        """A JPEG copy of an image of the index."""
        data, row = None, self.row(image)
        with contextlib.suppress(OSError):  # a change of the index may have deleted them
            data = self.index.stored_thumbnail(row) if side == THUMBNAIL else None
        if data is not None:
            return Response(data, media_type="image/jpeg", headers=_AN_HOUR)
        with self._copies.one():
            try:
                return await self.small(Job(self.file(image), image, side=side), _AN_HOUR)
            except UserError as e:
                raise HTTPException(404, str(e)) from e

    async def small(self, job: Job, headers: Mapping[str, str] = _NEVER) -> Response:
        """A JPEG copy, with the size of the picture itself in a header."""
        done = await self.decode(job)
        size = {"Picture-Size": f"{done.whole[0]}x{done.whole[1]}"}
        return Response(done.data, media_type="image/jpeg", headers={**headers, **size})

    async def body(self, request: Request) -> bytes:
        """What was sent, in memory."""
        most = self.limits.size
        too_large = HTTPException(413, f"the upload has more than {most:,} bytes")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > most:
            raise too_large
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.limits.sending):
                async for part in request.stream():
                    size += len(part)
                    if size > most:
                        raise too_large
                    parts.append(part)
        except TimeoutError as e:
            raise HTTPException(408, "the upload took too long") from e
        except ClientDisconnect as e:
            raise HTTPException(400, "the upload has ended early") from e
        if not size:
            raise HTTPException(400, "the request is empty; its body is to be the bytes of a file")
        return b"".join(parts)

    async def search(self, what: np.ndarray, offset: int, top: int, **asked: Any) -> Answer:
        k = min(offset + top, MOST_RESULTS, len(self.index))
        found = await asyncio.wrap_future(self._batcher.submit(Query(what, k)))
        ranked = zip(found.scores.tolist(), found.rows.tolist(), strict=True)
        results = [Result(rank=rank, name=self.index.names[row], score=score)
                   for rank, (score, row) in enumerate(ranked, 1)][offset:]  # fmt: skip
        more = len(found.rows) == k < min(MOST_RESULTS, len(self.index))
        descriptor = base64.b64encode(found.descriptor.astype("<f4").tobytes()).decode()
        query = Asked(descriptor=descriptor, **asked)
        return Answer(query=query, results=results, more=more)

    async def search_picture(
        self, source: bytes | str, name: str, box: str | None, offset: int, top: int,
        image: str | None = None,
    ) -> Answer:  # fmt: skip
        edges = None if box is None else read_box("the box", box)
        job = Job(source, name, tuple(edges) if edges else None, self.limits.pixels)
        done = await self.decode(job)
        width, height = done.whole
        asked = {"image": image, "width": width, "height": height, "box": edges}
        return await self.search(done.pixels(), offset, top, **asked)

    def taken(self, data: bytes) -> np.ndarray:
        """(D,) float32 from its bytes."""
        expected = self.index.descriptors.shape[1]
        x = np.frombuffer(data, "<f4") if len(data) == 4 * expected else np.array([np.nan])
        if not np.isfinite(x).all():
            raise UserError(f"the body of the request is not {expected} finite float32 numbers")
        return x.astype(np.float32)
