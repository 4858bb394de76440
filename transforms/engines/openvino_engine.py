"""OpenVINO: reads the SavedModel itself, needs no TensorFlow. The default on CPUs."""

from __future__ import annotations

import imagecensus.model_export.common.quiet_openvino  # noqa: F401  before OpenVINO

# isort: split
import threading

import numpy as np
import openvino as ov

from imagecensus.model_export.common.cores import usable_cores
from imagecensus.model_export.contract import Answers, ModelError, Pixels, openvino_source
from imagecensus.model_export.precision import INT8, has_int8, int8_graph

# Images per request, unless the graph fixes them. One compiled batch size for all: small enough to
# stay in a core's cache (measured: `make bench`), and the reason that answers do not depend on the
# caller's batch.
REQUEST_IMAGES = 2


class OpenVinoEngine:
    """A compiled model: one stream of single-threaded requests per core, no barrier inside one."""

    def __init__(self, model: str, precision: str, threads: int) -> None:
        threads = threads or usable_cores()
        core = ov.Core()
        if precision == INT8:
            if not has_int8(model):
                raise ModelError(
                    f"{model}: carries no int8 graph; make one with `imagecensus quantize`, or use"
                    " --precision=f32"
                )
            graph = core.read_model(int8_graph(model))
            precision = "f32"  # of what the graph leaves in float
        else:
            graph = core.read_model(openvino_source(model))
        batch, *image_shape = graph.input(0).partial_shape
        self._image_shape = tuple(dimension.get_length() for dimension in image_shape)
        self._rows = batch.get_length() if batch.is_static else REQUEST_IMAGES
        graph.reshape([self._rows, *self._image_shape])
        compiled = core.compile_model(
            graph,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": precision,
                "NUM_STREAMS": threads,
                "INFERENCE_NUM_THREADS": threads,
                "ENABLE_CPU_PINNING": False,  # decoding shares the cores
            },
        )
        self._outputs = [
            next(out for out in compiled.outputs if name in out.get_names())
            for name in ("class_ids", "scores", "embedding")
        ]
        # Two per core: while one runs, the next one waits, and no core waits for Python's lock.
        self._queue = ov.AsyncInferQueue(compiled, 2 * threads)
        self._queue.set_callback(self._store)
        self._lock = threading.Lock()  # runners give each bundle a thread; the queue is for one

    def infer(self, pixels: Pixels) -> Answers:
        """See `imagecensus.transforms.classify_images`."""
        pixels = np.ascontiguousarray(pixels)  # requests share its memory until wait_all
        count = len(pixels)
        class_ids, scores, embeddings = (
            np.empty((count, output.shape[1]), output.element_type.to_dtype())
            for output in self._outputs
        )
        with self._lock:
            self._answer(pixels, (class_ids, scores, embeddings))
        return class_ids, scores, embeddings

    def _answer(self, pixels: Pixels, answers: Answers) -> None:
        count = len(pixels)
        whole = count - count % self._rows
        for start in range(0, whole, self._rows):
            block = pixels[start : start + self._rows]
            self._queue.start_async({0: ov.Tensor(block, shared_memory=True)}, (answers, start))
        if whole < count:
            block = np.zeros((self._rows, *self._image_shape), np.uint8)
            block[: count - whole] = pixels[whole:]
            self._queue.start_async({0: ov.Tensor(block, shared_memory=True)}, (answers, whole))
        self._queue.wait_all()

    def _store(self, request: ov.InferRequest, job: tuple[Answers, int]) -> None:
        answers, start = job
        for answer, output in zip(answers, self._outputs, strict=True):
            rows = min(self._rows, len(answer) - start)
            answer[start : start + rows] = request.get_tensor(output).data[:rows]


def load(model: str, precision: str, threads: int) -> OpenVinoEngine:
    return OpenVinoEngine(model, precision, threads)
