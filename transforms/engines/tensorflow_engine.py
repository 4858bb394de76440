"""TensorFlow: the SavedModel as it was exported. The default on GPUs."""

from __future__ import annotations

import imagecensus.model_export.common.quiet_tensorflow  # noqa: F401  before TensorFlow

# isort: split
import concurrent.futures
import contextlib

import numpy as np
import tensorflow as tf

from imagecensus.model_export.common.cores import usable_cores
from imagecensus.model_export.contract import Answers, Pixels

# Images per call. One traced batch size for all, so that answers do not depend on the caller's
# batch; on CPUs larger float batches fall out of the cache.
CALL_IMAGES_CPU = 4
CALL_IMAGES_GPU = 64


class TensorFlowEngine:
    """A loaded SavedModel. Keeps the root object: without it the signature loses its constants.

    On CPUs one call per core at a time, each on one thread: threads that share a call wait for
    one another after every operation. A GPU gets one call at a time.
    """

    def __init__(self, model: str, threads: int) -> None:
        gpus = tf.config.list_physical_devices("GPU")
        calls = 1 if gpus else threads or usable_cores()
        # Where TensorFlow is running in this process already, its settings stay.
        with contextlib.suppress(RuntimeError):
            for gpu in gpus:
                tf.config.experimental.set_memory_growth(gpu, True)
            if not gpus:
                tf.config.threading.set_intra_op_parallelism_threads(1)
                tf.config.threading.set_inter_op_parallelism_threads(calls)
        self._root = tf.saved_model.load(model)
        self._signature = self._root.signatures["serving_default"]
        self._call_images = CALL_IMAGES_GPU if gpus else CALL_IMAGES_CPU
        self._calls = concurrent.futures.ThreadPoolExecutor(calls, "tensorflow")

    def infer(self, pixels: Pixels) -> Answers:
        """See `imagecensus.transforms.classify_images`."""
        starts = range(0, len(pixels), self._call_images)
        blocks = [pixels[start : start + self._call_images] for start in starts]
        class_ids, scores, embeddings = zip(*self._calls.map(self._call, blocks), strict=True)
        return np.concatenate(class_ids), np.concatenate(scores), np.concatenate(embeddings)

    def _call(self, block: Pixels) -> Answers:
        rows = len(block)
        if rows < self._call_images:
            padding = np.zeros((self._call_images - rows, *block.shape[1:]), np.uint8)
            block = np.concatenate([block, padding])
        answer = self._signature(images=tf.constant(block))
        class_ids, scores, embeddings = (
            answer[name].numpy()[:rows] for name in ("class_ids", "scores", "embedding")
        )
        return class_ids, scores, embeddings


def load(model: str, precision: str, threads: int) -> TensorFlowEngine:
    return TensorFlowEngine(model, threads)
