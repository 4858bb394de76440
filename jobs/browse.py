"""`imagecensus browse`: a local page over a finished table, to look, to correct and to try.

It listens on this machine only, under an address that holds a secret, and serves nothing but
images that the table lists, decoded and encoded anew.
"""

from __future__ import annotations

if __name__ == "__main__":  # first: help needs nothing of what follows
    from imagecensus.jobs.cli import command

    command("browse")

import contextlib
import secrets
import socket
import tempfile

import uvicorn

from imagecensus.jobs.options.browse import BrowseOptions
from imagecensus.jobs.results.browse_app import HOST, make_app
from imagecensus.jobs.results.browse_rows import Rows
from imagecensus.jobs.results.corrections import Corrections
from imagecensus.jobs.results.open_table import open_table, read_json
from imagecensus.model_export.common.errors import UserError


def main(options: BrowseOptions) -> int:
    """Serves until Ctrl-C."""
    with (
        open_table(options.output) as table,
        tempfile.TemporaryDirectory(prefix="imagecensus-") as folder,
    ):
        run = read_json(options.output, "run_report.json")
        model = options.model or run.get("model", {}).get("location")
        secret = secrets.token_urlsafe(12)
        app = make_app(Rows(table, folder), Corrections(options.output), model, secret)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        listener = _listen(HOST, options.port)
        port = listener.getsockname()[1]
        print(f"http://{HOST}:{port}/{secret}/   (Ctrl-C ends it)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):  # the way to end it, not a mishap
            server.run(sockets=[listener])
    return 0


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()  # from here on a browser that is quick waits instead of being refused
    except OSError as error:
        listener.close()
        raise UserError(f"--port={port}: {error.strerror}; choose another, or 0") from None
    return listener
