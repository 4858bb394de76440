"""The default model: Keras' ImageNet MobileNet-V2, fetched and exported once.

The export lives in the user's cache folder (`IMAGECENSUS_CACHE`, else `XDG_CACHE_HOME`, else
`~/.cache/imagecensus`); finding it there needs no TensorFlow and no network.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from imagecensus.model_export.common.cache import cache_folder, cache_path, unwritable
from imagecensus.model_export.common.errors import UserError, first_line
from imagecensus.model_export.common.fetch import FetchError, fetch
from imagecensus.model_export.common.version import __version__
from imagecensus.model_export.contract import CONTRACT_VERSION, Pixels, read_contract
from imagecensus.model_export.preprocess import PreprocessSpec

NAME = "mobilenet_v2_1.0_224"
# As the network was evaluated: the shorter side to 256, of which the middle 224 are kept.
PREPROCESS = PreprocessSpec(resize="bicubic", crop="center", crop_fraction=0.875)
WEIGHTS_FILE = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5"
# Where the weights come from, for mirrors and tests; Keras' own address where unset.
URL_VARIABLE = "IMAGECENSUS_WEIGHTS_URL"


def default_model(weights: str | None = None) -> str:
    """The folder of the exported default model, made on first use.

    Args:
      weights: a Keras weights file of MobileNet-V2 1.0/224 with its 1000 classes, for machines
        without the network; None downloads Keras' own, or takes it from Keras' cache.

    Raises:
      UserError: neither the network nor a usable file.
    """
    if weights and not os.path.isfile(weights):
        raise UserError(f"--weights {weights}: no such file")
    directory = os.path.join(cache_path("models"), f"{NAME}-{_key(weights)}")
    if _usable(directory):  # also in a cache that is only read
        return directory
    cache_folder("models")
    with _locked(directory + ".lock"):
        if not _usable(directory):  # another process may have made it meanwhile
            print("making the default model ready, once", file=sys.stderr, flush=True)
            try:
                _export(weights or _fetch_weights(), directory)
            except OSError as error:  # a full disk, a read-only mount
                raise unwritable(directory, error) from None
    return directory


def former_default_model(digest: str, weights: str | None = None) -> str | None:
    """A default model in the cache, also of an earlier version, with this digest; else None.

    `weights`: the file that it must be made of, where one was named.
    """
    try:
        names = sorted(os.listdir(cache_path("models")))
    except OSError:
        return None
    for name in names:
        directory = os.path.join(cache_path("models"), name)
        if not name.startswith(f"{NAME}-") or not _usable(directory):
            continue
        contract = read_contract(directory)
        made_of = _key(weights, contract.package_version, contract.preprocess)
        if contract.digest == digest and (not weights or name == f"{NAME}-{made_of}"):
            return directory
    return None


def imagenet_labels() -> tuple[str, ...]:
    """The 1000 labels in class order, as Keras' `decode_predictions` names them.

    ImageNet has two classes named "crane" and two named "maillot"; these labels are made
    unique here.
    """
    path = os.path.join(os.path.dirname(__file__), "imagenet_labels.txt")
    with open(path, encoding="utf-8") as file:
        return tuple(line.split()[1] for line in file)


def make_golden_images(spec: PreprocessSpec, count: int = 4) -> Pixels:
    """uint8 [count, H, W, 3]: generated images with coarse and fine structure, never flat."""
    rng = np.random.default_rng(20)
    rows, columns = np.mgrid[0 : spec.height, 0 : spec.width]
    images = []
    for index in range(count):
        power = 0.25 + index / count  # from rough to smooth
        canvas = np.zeros(spec.shape)
        for cells in (2, 5, 16, max(spec.height, spec.width)):
            grid = rng.uniform(-1, 1, (cells, cells, 3))
            canvas += (
                grid[rows * cells // spec.height, columns * cells // spec.width] / cells**power
            )
        y, x, radius = rng.uniform(0.3, 0.7, 3) * (spec.height, spec.width, spec.height / 2)
        canvas[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] += rng.uniform(-1, 1, 3)
        canvas -= canvas.min()
        images.append(canvas / canvas.max() * 255)
    stacked = np.stack(images).astype(np.uint8)
    if spec.color == "grey":  # as a grey network gets every image
        stacked[...] = stacked.mean(-1, keepdims=True).astype(np.uint8)
    return stacked


def _key(
    weights: str | None, version: str = __version__, preprocess: PreprocessSpec = PREPROCESS
) -> str:
    """Changes with whatever would change the export."""
    facts: dict[str, Any] = {"version": version, "contract": CONTRACT_VERSION}
    facts["preprocess"] = preprocess.to_json()
    if weights:
        with open(weights, "rb") as file:
            facts["weights"] = hashlib.sha256(file.read()).hexdigest()
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def _usable(directory: str) -> bool:
    try:
        read_contract(directory)
    except UserError:
        return False
    return True


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """One process makes the export, the others wait; a killed one leaves no lock behind."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch_weights() -> str:
    import imagecensus.model_export.common.quiet_tensorflow  # noqa: F401, I001
    from keras.src.applications.mobilenet_v2 import BASE_WEIGHT_PATH
    from tqdm import tqdm

    # Keras' own cache may hold them already; what is downloaded here lies in our own.
    home = os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")
    theirs = os.path.join(home, "models", WEIGHTS_FILE)
    path = theirs if os.path.isfile(theirs) else os.path.join(cache_folder("weights"), WEIGHTS_FILE)
    base = os.environ.get(URL_VARIABLE) or BASE_WEIGHT_PATH
    try:
        with tqdm(desc="weights", unit="B", unit_scale=True, disable=None) as bar:

            def progress(done: int, total: int | None) -> None:
                bar.total = total
                bar.update(done - bar.n)

            return fetch(base.rstrip("/") + "/" + WEIGHTS_FILE, path, progress=progress)
    except FetchError as error:
        raise UserError(
            f"the default model's weights: {error}; on a machine without the network, copy that"
            f" file to {path}, or name a file with --weights FILE, or a model with --model"
        ) from None


def _export(weights: str, directory: str) -> None:
    import imagecensus.model_export.common.quiet_tensorflow  # noqa: F401, I001
    import keras

    from imagecensus.model_export.export import export_classifier

    try:
        model = keras.applications.MobileNetV2(weights=weights)
    except Exception as error:
        raise UserError(
            f"{weights}: not the weights of MobileNet-V2 1.0/224 with its 1000 classes"
            f" ({first_line(error)[:200]}); delete it to download it again, or name"
            " another with --weights"
        ) from None
    spec = PREPROCESS
    export_classifier(
        model,
        spec,
        imagenet_labels(),
        directory,
        name=NAME,
        golden_images=make_golden_images(spec),
        embedding_layer=None,
        training={"data": "ImageNet (ILSVRC 2012)", "weights": os.path.basename(weights)},
    )
