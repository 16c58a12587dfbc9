"""The page and the JSON API of an index."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import functools
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from importlib.resources import files
from typing import Annotated, Any

import anyio
import numpy as np
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi import Query as Param
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from dir_jax import __version__
from dir_jax.data.given import read_box
from dir_jax.errors import UserError, shown
from dir_jax.runtime.platforms import count_cores
from dir_jax.search.index import Index
from dir_jax.serving.batching import Batcher
from dir_jax.serving.decoding import Decoded, Decoders, Job, TooLargeError
from dir_jax.serving.guard import Guard
from dir_jax.serving.searching import MOST_RESULTS, ROWS, Found, Query, Searcher

log = logging.getLogger(__name__)

_COPY = 1024  # pixels, the longer side of the copy that a box is drawn on
_THUMBNAIL = 256
_COPIES = 256  # that may wait to be made
_NO_CACHE = {"Cache-Control": "no-cache"}
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


Offset = Annotated[int, Param(ge=0, lt=MOST_RESULTS, description="how many to leave out first")]
Top = Annotated[int, Param(ge=1, le=1000, description="how many to give")]
Image = Annotated[str, Param(max_length=4096, description="the name of an image of the index")]
ABox = Annotated[
    str | None,
    Param(max_length=200, description="the part that counts: left,top,right,bottom in pixels"),
]


class Service:
    """What answers: an index, the thread that searches it, and the processes that decode."""

    def __init__(self, searcher: Searcher, limits: Limits = Limits()):
        self.index: Index = searcher.index
        self.limits = limits
        self.decoders = Decoders(
            min(max(count_cores(), 2), 4), exif=self.index.recipe.exif, seconds=limits.decoding
        )
        self._batcher: Batcher[Query, Found] = Batcher(searcher, ROWS[-1])
        self._searches, self._copies = Places(limits.queue), Places(_COPIES)

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
        return await anyio.to_thread.run_sync(self.decoders.decode, job, limiter=limiter)

    def file(self, image: str) -> str:
        """The path of an image, unless it leads out of the folder of the images."""
        root = os.path.abspath(self.index.root)  # links in it are the user's own
        path = os.path.abspath(self.index.image_path(self.row(image)))
        if os.path.commonpath([root, path]) != root:
            raise HTTPException(404, f"the image {shown(image)} is not in the folder of the index")
        return path

    async def copy(self, image: str, side: int) -> Response:
        headers = dict(_AN_HOUR)
        data = self.index.stored_thumbnail(self.row(image)) if side == _THUMBNAIL else None
        if data is None:
            job = Job(self.file(image), image, side=side)
            with self._copies.one():
                try:
                    done = await self.decode(job)
                except UserError as e:
                    raise HTTPException(404, str(e)) from e
            data, headers["Picture-Size"] = done.data, f"{done.whole[0]}x{done.whole[1]}"
        return Response(data, media_type="image/jpeg", headers=headers)

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
        try:
            done = await self.decode(job)
        except TooLargeError as e:
            raise HTTPException(413, str(e)) from e
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

    def api(self) -> APIRouter:
        """What `/api` answers."""
        api, index, limits = APIRouter(prefix="/api", tags=["search"]), self.index, self.limits

        async def place() -> AsyncIterator[None]:
            with self._searches.one():
                yield

        upload = {
            "requestBody": {
                "required": True,
                "content": {
                    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
                },
            }
        }

        @api.get("/index")
        async def about() -> Info:
            """What the index is, and what may be sent."""
            count, width = index.descriptors.shape
            return Info(name=index.path.name, images=count, dimensions=width, engine=index.engine,
                        recipe=str(index.recipe), exif=index.recipe.exif,
                        largest_upload=limits.size, most_pixels=limits.pixels,
                        version=__version__)  # fmt: skip

        @api.get("/images")
        async def images(offset: Annotated[int, Param(ge=0)] = 0, top: Top = 40) -> Names:
            """The images of the index, in its order."""
            end = offset + top
            return Names(names=index.names[offset:end], more=end < len(index))

        @api.get("/search", dependencies=[Depends(place)])
        async def search_by_image(
            image: Image, box: ABox = None, offset: Offset = 0, top: Top = 40
        ) -> Answer:
            """Searches by an image of the index, or by a part of it."""
            if box is None:
                x = np.array(index.descriptors[self.row(image)])
                return await self.search(x, offset, top, image=image)
            return await self.search_picture(self.file(image), image, box, offset, top, image)

        @api.post("/search", dependencies=[Depends(place)], openapi_extra=upload)
        async def search_by_picture(
            request: Request, box: ABox = None, offset: Offset = 0, top: Top = 40,
            name: Annotated[str, Param(max_length=255, description="for messages")] = "upload",
        ) -> Answer:  # fmt: skip
            """Searches by a picture: the bytes of its file are the body. Nothing of it is kept."""
            return await self.search_picture(await self.body(request), name, box, offset, top)

        @api.post("/search/descriptor", dependencies=[Depends(place)], openapi_extra=upload)
        async def search_by_descriptor(
            request: Request, offset: Offset = 0, top: Top = 40
        ) -> Answer:
            """Searches by a descriptor, such as that of an earlier answer, to see more of it: the
            body is its float32 numbers, little-endian."""
            return await self.search(self.taken(await self.body(request)), offset, top)

        jpeg: dict[str, Any] = {
            "response_class": Response,
            "responses": {200: {"content": {"image/jpeg": {}}}},
        }

        @api.get("/thumbnail", **jpeg)
        async def thumbnail(image: Image) -> Response:
            """A JPEG copy of an image of the index, 256 pixels on its longer side."""
            return await self.copy(image, _THUMBNAIL)

        @api.get("/picture", **jpeg)
        async def picture(image: Image) -> Response:
            """A JPEG copy of an image of the index, 1024 pixels on its longer side.

            The header Picture-Size has the width and height of the image itself.
            """
            return await self.copy(image, _COPY)

        return api


def create_app(
    service: Service, *, host: str = "localhost", origins: Sequence[str] = ()
) -> FastAPI:
    """The application: page, API and its documentation.

    Args:
      service: what answers.
      host: the host that is listened on.
      origins: other sites that may ask; see `check_origin`.
    """

    # FastAPI's own documentation page loads its scripts from another server.
    app = FastAPIOffline(None, None, title=f"dir_jax: {service.index.path.name}",
                         version=__version__)  # fmt: skip
    app.include_router(service.api())
    static = files("dir_jax.serving") / "static"
    for path, file, kind in (
        ("/", static / "index.html", "text/html"),
        ("/docs", static / "docs.html", "text/html"),
        ("/page.css", files("dir_jax.report") / "templates/page.css", "text/css"),
    ):
        app.add_route(path, _page(file.read_text("utf-8"), kind))
    app.mount("/static", StaticFiles(packages=[("dir_jax.serving", "static")]))

    @app.exception_handler(UserError)
    async def bad_input(_: Request, e: Exception) -> Response:
        return JSONResponse({"error": str(e)}, 400)

    @app.exception_handler(RequestValidationError)
    async def bad_request(_: Request, e: Exception) -> Response:
        assert isinstance(e, RequestValidationError)
        first = e.errors()[0]
        where = " ".join(str(part) for part in first["loc"][1:]) or "the request"
        return JSONResponse({"error": f"{where}: {first['msg']}"}, 422)

    @app.exception_handler(AnyHTTPException)
    async def refused(_: Request, e: Exception) -> Response:
        assert isinstance(e, AnyHTTPException)
        return JSONResponse({"error": e.detail}, e.status_code, e.headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, e: Exception) -> Response:
        return JSONResponse({"error": "the server has failed; its terminal says more"}, 500)

    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Content-Type"],
        )
    app.add_middleware(Guard, host=host, origins=origins)
    return app


def _page(text: str, kind: str) -> Callable[[Request], Response]:
    return lambda request: Response(text, media_type=kind, headers=_NO_CACHE)
