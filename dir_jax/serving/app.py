"""The page and the JSON API of an index."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from importlib.resources import files
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi import Query as Param
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from dir_jax import __version__
from dir_jax.errors import UserError
from dir_jax.serving.decoding import Job
from dir_jax.serving.guard import Guard
from dir_jax.serving.searching import MOST_RESULTS
from dir_jax.serving.service import COPY, THUMBNAIL, Answer, Info, Names, Service

_NO_CACHE = {"Cache-Control": "no-cache"}

Offset = Annotated[int, Param(ge=0, lt=MOST_RESULTS, description="how many to leave out first")]
Top = Annotated[int, Param(ge=1, le=1000, description="how many to give")]
Image = Annotated[str, Param(max_length=4096, description="the name of an image of the index")]
ABox = Annotated[
    str | None,
    Param(max_length=200, description="the part that counts: left,top,right,bottom in pixels"),
]


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
    app.include_router(_api(service))
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

    @app.exception_handler(HTTPException)
    async def refused(_: Request, e: Exception) -> Response:
        assert isinstance(e, HTTPException)
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


def _api(service: Service) -> APIRouter:
    """What `/api` answers."""
    api, index = APIRouter(prefix="/api", tags=["search"]), service.index

    async def place() -> AsyncIterator[None]:
        with service.searches.one():
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
                    largest_upload=service.limits.size, most_pixels=service.limits.pixels,
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
            x = np.array(index.descriptors[service.row(image)])
            return await service.search(x, offset, top, image=image)
        return await service.search_picture(service.file(image), image, box, offset, top, image)

    @api.post("/search", dependencies=[Depends(place)], openapi_extra=upload)
    async def search_by_picture(
        request: Request, box: ABox = None, offset: Offset = 0, top: Top = 40,
        name: Annotated[str, Param(max_length=255, description="for messages")] = "upload",
    ) -> Answer:  # fmt: skip
        """Searches by a picture: the bytes of its file are the body. Nothing of it is kept."""
        return await service.search_picture(await service.body(request), name, box, offset, top)

    @api.post("/search/descriptor", dependencies=[Depends(place)], openapi_extra=upload)
    async def search_by_descriptor(request: Request, offset: Offset = 0, top: Top = 40) -> Answer:
        """Searches by a descriptor, such as that of an earlier answer, to see more of it: the
        body is its float32 numbers, little-endian."""
        return await service.search(service.taken(await service.body(request)), offset, top)

    jpeg: dict[str, Any] = {
        "response_class": Response,
        "responses": {200: {"content": {"image/jpeg": {}}}},
    }

    @api.get("/thumbnail", **jpeg)
    async def thumbnail(image: Image) -> Response:
        """A JPEG copy of an image of the index, 256 pixels on its longer side."""
        return await service.copy(image, THUMBNAIL)

    @api.get("/picture", **jpeg)
    async def picture(image: Image) -> Response:
        """A JPEG copy of an image of the index, 1024 pixels on its longer side.

        The header Picture-Size has the width and height of the image itself.
        """
        return await service.copy(image, COPY)

    @api.post("/picture", dependencies=[Depends(place)], openapi_extra=upload, **jpeg)
    async def copy_of_picture(request: Request) -> Response:
        """The same of a picture that is sent, for browsers that do not know its format."""
        data = await service.body(request)
        return await service.small(Job(data, "upload", most=service.limits.pixels, side=COPY))

    return api


def _page(text: str, kind: str) -> Callable[[Request], Response]:
    return lambda request: Response(text, media_type=kind, headers=_NO_CACHE)
