"""Import this before OpenVINO: without it, importing OpenVINO reports its use to its makers.

It forks a multi-threaded process to do so, which crashes gRPC in a worker, and nobody asked for it.
"""

from __future__ import annotations

import sys

# Importing that name fails then, as documented, and OpenVINO goes without.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
