"""`imagecensus browse`: a local page over a finished table, to look, to correct and to try.

It listens on this machine only, under an address that holds a secret, and serves nothing but
images that the table lists, decoded and encoded anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import secrets
import tempfile
import threading
import urllib.parse
from collections.abc import Sequence

from imagecensus.jobs.command.options import argument, option, parse_options
from imagecensus.jobs.results.browse_rows import ORDERS, Filter, Rows
from imagecensus.jobs.results.corrections import Corrections
from imagecensus.jobs.results.open_table import open_table, read_json
from imagecensus.model_export.common.errors import UserError

HOST = "127.0.0.1"
TILE_SIDE, VIEW_SIDE = 160, 1024
MAX_UPLOAD = 64 * 2**20
_PAGE = os.path.join(os.path.dirname(__file__), "results", "pages", "browse.html")


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of `imagecensus browse`."""

    output: str = argument("the --output folder of a classify run")
    port: int = option(8642, "to listen on; 0 takes a free one", metavar="N")
    model: str = option(None, "for images dropped on the page; default: the run's", metavar="DIR")


def main(argv: Sequence[str]) -> int:
    """Serves until Ctrl-C."""
    options = parse_options(
        Options, argv, "imagecensus browse", "Shows a finished table as a page on this machine."
    )
    try:
        import uvicorn
    except ImportError:
        raise UserError("the page needs more packages: pip install 'imagecensus[browse]'") from None
    with (
        open_table(options.output) as table,
        tempfile.TemporaryDirectory(prefix="imagecensus-") as folder,
    ):
        model = options.model or read_json(options.output, "run_report.json").get("model", {}).get(
            "location"
        )
        secret = secrets.token_urlsafe(12)
        app = make_app(Rows(table, folder), Corrections(options.output), model, secret)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        listener = _listen(options.port)
        port = listener.getsockname()[1]
        print(f"http://{HOST}:{port}/{secret}/   (Ctrl-C ends it)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):  # the way to end it, not a mishap
            server.run(sockets=[listener])
    return 0


def make_app(rows: Rows, corrections: Corrections, model: str | None, secret: str):
    """The page as an ASGI application, below the path `/secret/`."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse, JSONResponse, Response
    from starlette.routing import Mount, Route

    decoding = threading.Semaphore(os.cpu_count() or 1)  # bounds the memory of large images
    predicting = threading.Lock()

    @functools.cache
    def predictor():
        if not model:
            raise UserError("no model is known for this table; start browse with --model")
        from imagecensus.jobs.predict import Predictor

        return Predictor(model)

    def page(request):
        with open(_PAGE, encoding="utf-8") as file:
            nonce = secrets.token_urlsafe(12)
            return HTMLResponse(
                file.read().replace("NONCE", nonce),
                headers={
                    "Content-Security-Policy": f"default-src 'none'; script-src 'nonce-{nonce}';"
                    f" style-src 'nonce-{nonce}'; img-src 'self' blob:; connect-src 'self';"
                    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
                },
            )

    def summary(request):
        found = rows.summarize()
        return JSONResponse({**found, "orders": list(ORDERS), "corrected": len(corrections)})

    def list_rows(request):
        asked = request.query_params
        try:
            offset, limit = max(int(asked.get("offset", 0)), 0), int(asked.get("limit", 100))
            chosen = _filter(asked, corrections)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
        total, found = rows.read_page(chosen, offset, limit)
        for row in found:
            row["corrected"] = corrections.label_of(row["uri"])
        return JSONResponse({"total": total, "rows": found})

    def show_row(request):
        row = rows.read_row(request.path_params["id"])
        if row is None:
            return JSONResponse({"error": "no such row"}, 404)
        row["corrected"] = corrections.label_of(row["uri"])
        return Response(_json(row), media_type="application/json")

    def image(request):
        from imagecensus.jobs.results.thumbnails import make_thumbnail, make_view
        from imagecensus.model_export.image_formats import ImageError

        row = rows.read_row(request.path_params["id"])
        if row is None:
            return JSONResponse({"error": "no such row"}, 404)
        make, side = (
            (make_view, VIEW_SIDE)
            if "view" in request.query_params
            else (make_thumbnail, TILE_SIDE)
        )
        try:
            with decoding:
                jpeg = make(rows.images.read(row["uri"]), side)
        except ImageError as error:
            return JSONResponse({"error": f"{error.status}: {error}"}, 404)
        return Response(
            jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=600"}
        )

    async def correct(request):
        try:
            asked = await request.json()
            row_id, label = int(asked["id"]), asked["label"]
            if label is not None:
                label = label.strip()
                if not label or len(label.splitlines()) > 1:
                    raise ValueError("a label is one line of text")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return JSONResponse({"error": f"not a correction: {error}"}, 400)
        row = rows.read_row(row_id)
        if row is None:
            return JSONResponse({"error": "no such row"}, 404)
        corrections.set(row["uri"], label, row["label"], row["score"])
        return JSONResponse({"corrected": label, "count": len(corrections)})

    def download(request):
        headers = {"Content-Disposition": 'attachment; filename="corrections.csv"'}
        return Response(corrections.to_csv(), media_type="text/csv", headers=headers)

    async def classify(request):
        data = bytearray()
        async for chunk in request.stream():
            data += chunk
            if len(data) > MAX_UPLOAD:
                return JSONResponse({"error": "the file is too large"}, 413)
        from starlette.concurrency import run_in_threadpool

        name = urllib.parse.unquote(request.headers.get("X-Name", "image"))
        return JSONResponse(await run_in_threadpool(answer, name, bytes(data)))

    def answer(name, data):
        with predicting:
            [row] = predictor().predict([(name, data)])
        return row

    def refuse(request, error):
        return JSONResponse({"error": str(error)}, 400)

    routes = [
        Route("/", page),
        Route("/api/summary", summary),
        Route("/api/rows", list_rows),
        Route("/api/rows/{id:int}", show_row),
        Route("/api/rows/{id:int}/image", image),
        Route("/api/correct", correct, methods=["POST"]),
        Route("/api/classify", classify, methods=["POST"]),
        Route("/corrections.csv", download),
    ]
    return Starlette(
        routes=[Mount(f"/{secret}", routes=routes)],
        # A page elsewhere that makes its name point here (DNS rebinding) is turned away.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
        exception_handlers={UserError: refuse},
    )


def _filter(asked, corrections: Corrections) -> Filter:
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


def _json(row: dict) -> bytes:
    """A row with whatever types its passed-through columns have."""
    import json

    return json.dumps(row, default=str).encode()


def _listen(port: int):
    import socket

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()  # from here on a browser that is quick waits instead of being refused
    except OSError as error:
        raise UserError(f"--port={port}: {error.strerror}; choose another, or 0") from None
    return listener


if __name__ == "__main__":
    from imagecensus.jobs.cli import command

    command("browse")
