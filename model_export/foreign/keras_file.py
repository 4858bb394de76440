"""Keras files from elsewhere: loaded without code of theirs, and what their last layer answers."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import typing
from collections.abc import Iterator

from imagecensus.model_export.common.errors import UserError

# Arguments that Keras 2 wrote and Keras 3 does not know, with the values that change nothing.
_KERAS_2: dict[str, dict[str, tuple[typing.Any, ...]]] = {
    "DepthwiseConv2D": {"groups": (1,)},
    "BatchNormalization": {"fused": (None, True, False), "renorm": (False,)},
}


def load_keras(path: str) -> typing.Any:
    """The Keras model of a .keras or .h5 file.

    Raises:
      UserError: it cannot be loaded; the message ends with the cause.
    """
    import keras

    try:
        with _readable(path) as readable:
            # safe_mode: a file from elsewhere does not get to run code of its own.
            return keras.models.load_model(readable, compile=False, safe_mode=True)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: Keras cannot load it: {_cause(error)}") from None


def last_activation(model: typing.Any) -> str:
    """The name of what the model's answers went through last, as "softmax"; "" if unknown."""
    import keras

    layer = model.layers[-1]
    while isinstance(layer, keras.Model):
        layer = layer.layers[-1]
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    return getattr(getattr(layer, "activation", None), "__name__", "")


def _cause(error: Exception) -> str:
    """What went wrong, without the layer's whole config in front of it."""
    text = str(error)
    for marker in ("Exception encountered:", "Could not locate class", "Unknown layer"):
        if marker in text:
            text = text[text.rindex(marker) :].removeprefix("Exception encountered:")
            break
    text = " ".join(text.split())
    if "Could not locate" in text or "Unknown layer" in text:
        named = text.split("'")[1] if text.count("'") > 1 else "a layer"
        return (
            f"it has a layer of its own, {named!r}, whose Python code is not in the file; build it"
            " of Keras' own layers only and save it again"
        )
    return text[:1000]


@contextlib.contextmanager
def _readable(path: str) -> Iterator[str]:
    """The file, or a copy of it without what Keras 2 wrote and Keras 3 refuses."""
    import h5py

    if not h5py.is_hdf5(path):
        yield path
        return
    with h5py.File(path, "r") as file:
        config = file.attrs.get("model_config")
    if config is None:
        raise UserError(f"{path}: holds weights only; save the whole model (model.save)")
    tree = json.loads(config)
    if '"Lambda"' in json.dumps(tree):
        raise UserError(
            f"{path}: has a Lambda layer, which is Python code that would run here; save the"
            " model without it"
        )
    if not _mend(tree):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="imagecensus-") as folder:
        copy = os.path.join(folder, "model.h5")
        shutil.copyfile(path, copy)
        with h5py.File(copy, "r+") as file:
            file.attrs["model_config"] = json.dumps(tree)
        yield copy


def _mend(tree: typing.Any) -> bool:
    """Drops the arguments of Keras 2 in place; says whether there were any."""
    if isinstance(tree, list):
        return any([_mend(entry) for entry in tree])  # noqa: C419 - each of them, not up to one
    if not isinstance(tree, dict):
        return False
    mended = any([_mend(entry) for entry in tree.values()])  # noqa: C419 - each of them
    config = tree.get("config")
    for name, values in _KERAS_2.get(str(tree.get("class_name")), {}).items():
        if isinstance(config, dict) and name in config and config[name] in values:
            del config[name]
            mended = True
    return mended
