"""Import this before OpenVINO: without it, importing OpenVINO reports its use to its makers.

It forks a multi-threaded process to do so, which crashes gRPC in a worker, and nobody asked for it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

# Importing that name fails then, as documented, and OpenVINO goes without.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


@contextlib.contextmanager
def quiet_parsers() -> Iterator[None]:
    """Keeps what the parsers in OpenVINO say of a file off standard error: the exception says it.

    They write past Python. What other threads write meanwhile is lost, too.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
