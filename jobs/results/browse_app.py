"""The page of `imagecensus browse`, as an ASGI application.

It serves nothing but what the table holds: rows, and images that are decoded and encoded anew.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import threading
import urllib.parse
import weakref
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route

from imagecensus.jobs.predict import Predictor
from imagecensus.jobs.results.browse_rows import ORDERS, Filter, Rows
from imagecensus.jobs.results.corrections import Corrections
from imagecensus.jobs.results.thumbnails import make_thumbnail, make_view
from imagecensus.model_export.common.cores import usable_cores
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.image_formats import ImageError
from imagecensus.transforms.decoders.lease import lease

HOST = "127.0.0.1"
TILE_SIDE, VIEW_SIDE = 160, 1024
MAX_UPLOAD = 64 * 2**20
_MOST_ROWS = 1 << 40  # what a request may count to
_PAGE = os.path.join(os.path.dirname(__file__), "pages", "browse.html")
_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}';"
    " img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)


def make_app(rows: Rows, corrections: Corrections, model: str | None, secret: str) -> Starlette:
    """The application, below the path `/secret/`.

    Args:
      rows: of the table.
      corrections: of the same output folder.
      model: folder of the model for images dropped on the page; None: there is none.
      secret: what makes the address known to this user only.
    """
    page = _Page(rows, corrections, model)
    routes = [
        Route("/", page.show),
        Route("/api/summary", page.summarize),
        Route("/api/rows", page.list_rows),
        Route("/api/rows/{id:int}", page.show_row),
        Route("/api/rows/{id:int}/image", page.show_image),
        Route("/api/correct", page.correct, methods=["POST"]),
        Route("/api/classify", page.classify, methods=["POST"]),
        Route("/corrections.csv", page.download),
    ]
    return Starlette(
        routes=[Mount(f"/{secret}", routes=routes)],
        # A page elsewhere that makes its name point here (DNS rebinding) is turned away.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
        exception_handlers={UserError: _refuse},
    )


class _Page:
    """What the routes do. Those that are not `async` run in threads of their own."""

    def __init__(self, rows: Rows, corrections: Corrections, model: str | None) -> None:
        self._rows, self._corrections, self._model = rows, corrections, model
        stack = contextlib.ExitStack()
        stack.enter_context(lease())
        weakref.finalize(self, stack.close)
        # Bounds the memory of large images.
        self._decoding = threading.Semaphore(usable_cores())
        self._predicting = threading.Lock()

    def show(self, request: Request) -> Response:
        nonce = secrets.token_urlsafe(12)
        with open(_PAGE, encoding="utf-8") as file:
            page = file.read().replace("NONCE", nonce)
        return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY.format(nonce=nonce)})

    def summarize(self, request: Request) -> Response:
        found = self._rows.summarize()
        return JSONResponse({**found, "orders": list(ORDERS), "corrected": len(self._corrections)})

    def list_rows(self, request: Request) -> Response:
        asked = request.query_params
        try:
            offset, limit = (
                min(max(int(asked.get(name, default)), 0), _MOST_ROWS)
                for name, default in (("offset", 0), ("limit", 100))
            )
            chosen = _filter(asked, self._corrections)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
        total, found = self._rows.read_page(chosen, offset, limit)
        for row in found:
            row["corrected"] = self._corrections.label_of(row["uri"])
        return JSONResponse({"total": total, "rows": found})

    def show_row(self, request: Request) -> Response:
        row = self._rows.read_row(request.path_params["id"])
        if row is None:
            return _no_such_row()
        row["corrected"] = self._corrections.label_of(row["uri"])
        # Columns that came with the images may have any type.
        return Response(json.dumps(row, default=str).encode(), media_type="application/json")

    def show_image(self, request: Request) -> Response:
        row = self._rows.read_row(request.path_params["id"])
        if row is None:
            return _no_such_row()
        whole = "view" in request.query_params
        make, side = (make_view, VIEW_SIDE) if whole else (make_thumbnail, TILE_SIDE)
        try:
            with self._decoding:
                jpeg = make(self._rows.images.read(row["uri"]), side)
        except ImageError as error:
            return JSONResponse({"error": f"{error.status}: {error}"}, 404)
        headers = {"Cache-Control": "private, max-age=600"}
        return Response(jpeg, media_type="image/jpeg", headers=headers)

    async def correct(self, request: Request) -> Response:
        try:
            asked = await request.json()
            row_id, label = int(asked["id"]), asked["label"]
            if label is not None:
                label = label.strip()
                if not label or len(label.splitlines()) > 1:
                    raise ValueError("a label is one line of text")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return JSONResponse({"error": f"not a correction: {error}"}, 400)
        row = self._rows.read_row(row_id)
        if row is None:
            return _no_such_row()
        self._corrections.set(row["uri"], label, row["label"], row["score"])
        return JSONResponse({"corrected": label, "count": len(self._corrections)})

    def download(self, request: Request) -> Response:
        headers = {"Content-Disposition": 'attachment; filename="corrections.csv"'}
        return Response(self._corrections.to_csv(), media_type="text/csv", headers=headers)

    async def classify(self, request: Request) -> Response:
        data = bytearray()
        async for chunk in request.stream():
            data += chunk
            if len(data) > MAX_UPLOAD:
                return JSONResponse({"error": "the file is too large"}, 413)
        name = urllib.parse.unquote(request.headers.get("X-Name", "image"))
        return JSONResponse(await run_in_threadpool(self._predict, name, bytes(data)))

    def _predict(self, name: str, data: bytes) -> dict[str, Any]:
        with self._predicting:
            [row] = self._predictor.predict([(name, data)])
        return row

    @functools.cached_property
    def _predictor(self) -> Predictor:
        if not self._model:
            raise UserError("no model is known for this table; start browse with --model")
        return Predictor(self._model)


def _no_such_row() -> Response:
    return JSONResponse({"error": "no such row"}, 404)


def _refuse(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)


def _filter(asked: QueryParams, corrections: Corrections) -> Filter:
    """The filter of a query string. Raises ValueError."""
    chosen = Filter(
        text=asked.get("text", ""),
        label=asked.get("label", ""),
        status=asked.get("status", ""),
        low=float(asked.get("low") or 0),
        high=float(asked.get("high") or 1),
        order=asked.get("order") or "uri",
        corrected=tuple(corrections.uris()) if asked.get("corrected") else None,
    )
    if chosen.order not in ORDERS:
        raise ValueError(f"order is one of {', '.join(ORDERS)}")
    return chosen
