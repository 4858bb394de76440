"""TensorFlow Hub modules as frozen trunks.

A handle is a URL, a local .tar.gz, or a local SavedModel folder, of TF2 SavedModels and of the
older hub format alike. The images go in as the hub's common image convention says: RGB floats
in [0, 1]. The module is called without training, so that its batch norm keeps its averages.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from imagecensus.model_export.common.atomic import atomic_folder
from imagecensus.model_export.common.cache import cache_folder
from imagecensus.model_export.common.errors import BackboneError, first_line
from imagecensus.model_export.common.fetch import fetch
from imagecensus.model_export.contract import ModelError
from imagecensus.model_export.preprocess import PreprocessSpec
from imagecensus.model_export.safety import check_graph


def expected_size(handle: str, trust: bool = False) -> int | None:
    """The side of the images a module takes; None where any will do and none is customary.

    Args:
      handle: of the module; `#sha256=HEX` behind a URL pins its archive.
      trust: run its graph even if that may touch files or the network.

    Raises:
      BackboneError: the module cannot be loaded, or takes no images.
      ModelError: it is not trusted, and should be before its graph runs.
    """
    shape = _input_shape(_load(handle, trust), handle)
    if shape[1] is not None:
        if shape[1] != shape[2]:
            raise BackboneError(
                f"hub:{handle}: takes {shape[2]}x{shape[1]} images; only square ones work here"
            )
        return int(shape[1])
    # Modules of any size are trained at one, which their names end in: ..._130_224/...
    named = re.search(r"_(\d{2,3})(?=/|$|\.)", handle)
    return int(named[1]) if named else None


def build_hub_trunk(handle: str, spec: PreprocessSpec, trust: bool = False) -> keras.Model:
    """float32 [N, H, W, 3] in [0, 1] -> features float32 [N, D], in the current strategy's scope.

    Raises:
      BackboneError: the module cannot be loaded, or does not take such images.
      ModelError: see `expected_size`.
    """
    module = _load(handle, trust)
    inputs = keras.Input(spec.shape)
    try:
        features = _HubLayer(module, handle, name="hub")(inputs)
    except BackboneError:
        raise
    except Exception as error:
        takes = _input_shape(module, handle)
        raise BackboneError(
            f"hub:{handle}: takes images of shape {list(takes)}, not {spec.height}x{spec.width}"
            f" ({first_line(error)[:200]}); set --image-size"
        ) from None
    return keras.Model(inputs, features, name="trunk")


class _HubLayer(keras.layers.Layer):
    """A loaded module as a layer without Keras variables."""

    def __init__(self, module: Any, handle: str, **kwargs: Any) -> None:
        super().__init__(trainable=False, dtype="float32", **kwargs)
        # In a tuple, so that Keras' attribute tracking leaves the foreign object alone.
        self._held = (module, _caller(module))
        self._handle = handle

    def call(self, images: Any) -> Any:
        features = self._held[1](images)
        if isinstance(features, dict):
            features = features.get("default", next(iter(features.values())))
        if features.shape.rank == 4:
            features = tf.reduce_mean(features, [1, 2])
        return features

    def compute_output_spec(self, images: Any) -> keras.KerasTensor:
        batch = tf.TensorSpec([None, *images.shape[1:]], tf.float32)
        shape = tf.function(self.call).get_concrete_function(batch).output_shapes
        if shape.rank != 2 or shape[1] is None:
            raise BackboneError(
                f"hub:{self._handle}: answers with shape {shape}; expected features [N, D]"
            )
        return keras.KerasTensor((None, int(shape[1])), "float32")


def _caller(module: Any) -> Callable[[Any], Any]:
    """The module as a function of a batch of images."""
    if callable(module):

        def call(images: Any) -> Any:
            try:
                return module(images, training=False)
            except TypeError:  # it knows no training mode
                return module(images)

        return call
    signature = _signature(module)
    (name,) = signature.structured_input_signature[1]
    return lambda images: signature(**{name: images})


def _signature(module: Any) -> Any:
    for name in ("default", "image_feature_vector", "serving_default"):
        if name in module.signatures:
            return module.signatures[name]
    return None


def _input_shape(module: Any, handle: str) -> tuple[int | None, ...]:
    """(N, H, W, 3), None where any number will do."""
    if callable(module):
        functions = module.__call__.concrete_functions
        specs = [function.structured_input_signature[0][0] for function in functions]
    else:
        signature = _signature(module)
        specs = list(signature.structured_input_signature[1].values()) if signature else []
    shapes = [spec.shape for spec in specs if getattr(spec, "shape", None) is not None]
    if not shapes or shapes[0].rank != 4 or shapes[0][3] not in (3, None):
        raise BackboneError(
            f"hub:{handle}: takes {[str(shape) for shape in shapes]}; expected images"
            " [N, height, width, 3]"
        )
    return tuple(shapes[0])


def _load(handle: str, trust: bool) -> Any:
    os.environ.setdefault("TFHUB_CACHE_DIR", cache_folder("hub"))
    import tensorflow_hub as hub

    try:
        folder = _folder(handle)
        if not trust:
            check_graph(folder)
        return hub.load(folder)
    except ModelError:
        raise
    except Exception as error:
        raise BackboneError(
            f"hub:{handle}: cannot be loaded ({first_line(error)[:300]}); give the URL"
            " of a module, a .tar.gz of one, or a SavedModel folder"
        ) from None


def _folder(handle: str) -> str:
    """The module's folder on this machine. Raises FetchError, OSError or what the hub raises."""
    import tensorflow_hub as hub

    if os.path.isfile(handle):
        return _unpacked(handle)
    if not handle.startswith(("https://", "http://")):
        return str(hub.resolve(handle))
    # Not by the hub's own loader: it has no time limit, and starts over after each break.
    url, _, pin = handle.partition("#sha256=")
    name = hashlib.sha256(handle.encode()).hexdigest()[:16] + ".tar.gz"
    archive = os.path.join(os.environ["TFHUB_CACHE_DIR"], name)
    question = "&" if "?" in url else "?"
    return _unpacked(fetch(f"{url}{question}tf-hub-format=compressed", archive, digest=pin))


def _unpacked(archive: str) -> str:
    """The folder of a local .tar.gz, unpacked once into the cache."""
    with open(archive, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()[:16]
    folder = os.path.join(os.environ["TFHUB_CACHE_DIR"], digest)
    if not os.path.isdir(folder):
        with atomic_folder(folder, replace=False) as partial, tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")
    return folder
