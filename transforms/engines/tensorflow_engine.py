"""TensorFlow: the SavedModel as it was exported. The default on GPUs."""

from __future__ import annotations

import imagecensus.model_export.common.quiet_tensorflow  # noqa: F401  before TensorFlow

# isort: split
import concurrent.futures
import contextlib
import functools
import hashlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from imagecensus.model_export.common.cores import usable_cores
from imagecensus.model_export.contract import Answers, Infer, Pixels, read_contract, read_golden
from imagecensus.transforms.activity import LOGGER
from imagecensus.transforms.engines.race import kept, race, repeated

# Images per call on CPUs: larger float batches fall out of the cache.
CALL_IMAGES_CPU = 4
# On a GPU: the smallest of these that is not much slower than the fastest.
CALL_IMAGES_GPU = (16, 32, 64, 128, 256)
_NOT_MUCH = 0.95  # of the fastest one's images/s
# At a time on a GPU. While it works on one, the images of the next are copied there, and the
# answers of the one before from there.
CALLS_GPU = 2


class TensorFlowEngine:
    """A loaded SavedModel. Keeps the root object: without it the signature loses its constants.

    Each call has the same number of images, whatever arrives, so that answers do not depend on the
    caller's batch. On CPUs there is one call per core at a time, each on one thread: threads that
    share a call wait for one another after every operation.

    Attributes:
      note: how large calls are and why, where that was measured; else "".
    """

    def __init__(self, model: str, threads: int) -> None:
        gpus = tf.config.list_physical_devices("GPU")
        calls = CALLS_GPU if gpus else threads or usable_cores()
        # Where TensorFlow is running in this process already, its settings stay.
        with contextlib.suppress(RuntimeError):
            for gpu in gpus:
                tf.config.experimental.set_memory_growth(gpu, True)
            if not gpus:
                tf.config.threading.set_intra_op_parallelism_threads(1)
                tf.config.threading.set_inter_op_parallelism_threads(calls)
        self._root = tf.saved_model.load(model)
        self._signature = self._root.signatures["serving_default"]
        self._calls = concurrent.futures.ThreadPoolExecutor(calls, "tensorflow")
        self._call_images, self.note = CALL_IMAGES_CPU, ""
        if gpus:
            details = tf.config.experimental.get_device_details(gpus[0])
            self.choose_call_images(model, details.get("device_name", "GPU"))

    def infer(self, pixels: Pixels) -> Answers:
        """See `imagecensus.transforms.classify_images`."""
        while True:
            call_images = self._call_images
            try:
                return self._infer(pixels, call_images)
            except tf.errors.ResourceExhaustedError:
                if call_images == 1:
                    raise
                self._call_images = min(self._call_images, call_images // 2)
                LOGGER.warning(
                    "a call of %d images found no memory; calls are of %d from now on",
                    call_images,
                    self._call_images,
                )

    def choose_call_images(
        self, model: str, device: str, sizes: Sequence[int] = CALL_IMAGES_GPU
    ) -> None:
        """Sets how many images each call has, by a race on the model's golden images.

        The choice is kept in the cache folder: a device answers a model alike in each run.

        Args:
          model: folder of this model.
          device: its name.
          sizes: to choose from, ascending.
        """
        name = hashlib.sha256(f"{device} {sizes} {tf.__version__}".encode()).hexdigest()[:12]
        digest = read_contract(model, verify_digest=False).digest[:16]

        def measure() -> dict[str, dict[str, float]]:
            # What the job gives at once, where there is a GPU: `DecodingConfig.batch`.
            images = repeated(read_golden(model).images, CALLS_GPU * sizes[-1])
            return {"images_per_second": self.race_calls(images, sizes)}

        found = kept(("calls", f"{name}-{digest}.json"), measure)["images_per_second"]
        fast = _NOT_MUCH * max(found.values())
        self._call_images = min(int(size) for size, rate in found.items() if rate >= fast)
        rates = ", ".join(f"{size}: {rate:,.0f}" for size, rate in found.items())
        self.note = f"{self._call_images} images each on {device}"
        LOGGER.info("calls of %s; images/s by size %s", self.note, rates)

    def race_calls(self, images: Pixels, sizes: Sequence[int]) -> dict[str, float]:
        """Images/s by images per call; the sizes from the first that finds no memory are missing.

        Raises:
          tf.errors.ResourceExhaustedError: the smallest finds none.
        """
        able: list[Infer] = []
        for size in sizes:
            one = functools.partial(self._infer, call_images=size)
            try:
                one(images[: CALLS_GPU * size])  # the first ones of a shape are slow, too
            except tf.errors.ResourceExhaustedError:
                if not able:
                    raise
                break
            able.append(one)
        return dict(zip(map(str, sizes), race(able, images), strict=False))

    def _infer(self, pixels: Pixels, call_images: int) -> Answers:
        starts = range(0, len(pixels), call_images)
        blocks = [pixels[start : start + call_images] for start in starts]
        call = functools.partial(self._call, call_images=call_images)
        class_ids, scores, embeddings = zip(*self._calls.map(call, blocks), strict=True)
        return np.concatenate(class_ids), np.concatenate(scores), np.concatenate(embeddings)

    def _call(self, block: Pixels, call_images: int) -> Answers:
        rows = len(block)
        if rows < call_images:
            padding = np.zeros((call_images - rows, *block.shape[1:]), np.uint8)
            block = np.concatenate([block, padding])
        answer = self._signature(images=tf.constant(block))
        class_ids, scores, embeddings = (
            answer[name].numpy()[:rows] for name in ("class_ids", "scores", "embedding")
        )
        return class_ids, scores, embeddings


def load(model: str, precision: str, threads: int) -> TensorFlowEngine:
    return TensorFlowEngine(model, threads)
