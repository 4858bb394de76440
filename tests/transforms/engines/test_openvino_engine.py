"""The engine as runners use it: one model, many threads."""

import concurrent.futures
import subprocess
import sys

import numpy as np

from imagecensus.transforms.engines.registry import load_engine


def test_threads_share_an_engine(tiny_model):
    """Flink and Dataflow run bundles in threads of one process, which share the model.

    Without the engine's lock this hangs, or answers are another thread's.
    """
    engine = load_engine("openvino", tiny_model, threads=2)
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, 256, (n, 32, 32, 3), np.uint8) for n in (1, 2, 5, 16, 33, 64) * 20]
    alone = [engine.infer(batch) for batch in batches]
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        together = list(threads.map(engine.infer, batches))
    for one, other in zip(alone, together, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_nothing_is_reported_to_anyone():
    """OpenVINO's telemetry forks the worker; it must not be loaded."""
    code = (
        "import imagecensus.transforms.engines.openvino_engine, sys;"
        "print([m for m in sys.modules if 'telemetry.' in m and 'openvino_telemetry' in m])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
