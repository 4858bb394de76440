"""tfx-bsl: its `CreateModelHandler` over the signature `serving_bytes`, for those who live in TFX.

It takes encoded images. So that its rows are those of the other engines, it gets our own decoded
pixels, packed without loss, and not the files. The slowest engine: each image is packed, parsed
again and answered with a protocol buffer that holds the image once more.
"""

from __future__ import annotations

import imagecensus.model_export.common.quiet_tensorflow  # noqa: F401  before TensorFlow

# isort: split
import contextlib
import io

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image
from tfx_bsl.public.beam.run_inference import CreateModelHandler
from tfx_bsl.public.proto import model_spec_pb2

from imagecensus.model_export.contract import Answers, Pixels

CALL_IMAGES = 8


class TfxBslEngine:
    """tfx-bsl's own handler and the TensorFlow 1 session that it loads.

    The signature has no embeddings: `infer` answers with `[N, 0]`.
    """

    def __init__(self, model: str, threads: int) -> None:
        if threads:
            with contextlib.suppress(RuntimeError):  # TensorFlow runs already: its settings stay
                tf.config.threading.set_intra_op_parallelism_threads(threads)
        spec = model_spec_pb2.InferenceSpecType()
        spec.saved_model_spec.model_path = model
        spec.saved_model_spec.signature_name.append("serving_bytes")
        self._handler = CreateModelHandler(spec)
        self._session = self._handler.load_model()

    def infer(self, pixels: Pixels) -> Answers:
        """See `imagecensus.transforms.classify_images`."""
        class_ids, scores = [], []
        for start in range(0, len(pixels), CALL_IMAGES):
            block = [_packed(image) for image in pixels[start : start + CALL_IMAGES]]
            rows = len(block)
            block += block[:1] * (CALL_IMAGES - rows)  # one batch size: answers never depend on it
            # Each log repeats its request, the image. Only the answers leave this loop.
            for log in self._handler.run_inference(block, self._session)[:rows]:
                answer = log.predict_log.response.outputs
                class_ids.append(tf.make_ndarray(answer["class_ids"])[0])
                scores.append(tf.make_ndarray(answer["scores"])[0])
        embeddings = np.zeros((len(pixels), 0), np.float32)
        return np.stack(class_ids), np.stack(scores), embeddings


def _packed(image: NDArray[np.uint8]) -> bytes:
    """A BMP file of uint8 [H, W, 3]."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "BMP")
    return file.getvalue()


def load(model: str, precision: str, threads: int) -> TfxBslEngine:
    return TfxBslEngine(model, threads)
