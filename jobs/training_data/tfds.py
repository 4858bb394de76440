"""TensorFlow Datasets as labelled images. An optional extra: `pip install imagecensus[tfds]`.

The stored files are handed on as they are, so that they are decoded by the one preprocessing
function like any other image.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from imagecensus.model_export.training.splits import DataError, Split

if TYPE_CHECKING:  # an extra
    from tensorflow_datasets.core import DatasetBuilder

_SPLITS = {"train": "train", "validation": "val", "val": "val", "test": "test"}


def read_tfds(name: str) -> tuple[list[str], dict[str, Split]]:
    """Labels, and a Split for each split of a data set that has an image and a label.

    Args:
      name: of the data set, with its config and version if need be: `imagenette/160px-v2`.

    Raises:
      DataError: no such package, data set, or no image with a class label in it.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise DataError(
            f"tfds:{name}: needs TensorFlow Datasets; pip install imagecensus[tfds]"
        ) from None
    try:
        builder = tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR"))
        builder.download_and_prepare()
    except Exception as error:
        raise DataError(
            f"tfds:{name}: cannot be prepared: {str(error).splitlines()[0][:300]}"
        ) from None
    images = [key for key, f in builder.info.features.items() if isinstance(f, tfds.features.Image)]
    classes = [
        key for key, f in builder.info.features.items() if isinstance(f, tfds.features.ClassLabel)
    ]
    if not images or not classes:
        raise DataError(f"tfds:{name}: has no image with a class label")
    image, label = images[0], "label" if "label" in classes else classes[0]
    labels = builder.info.features[label].names
    found = {
        _SPLITS[split]: _split(tfds, builder, split, image, label)
        for split in builder.info.splits
        if split in _SPLITS
    }
    if "train" not in found:
        raise DataError(f"tfds:{name}: has no train split")
    return labels, found


def _split(tfds: ModuleType, builder: DatasetBuilder, split: str, image: str, label: str) -> Split:
    def examples() -> Iterator[dict[str, Any]]:
        # In order, and not decoded: the bytes are those of the files.
        yield from builder.as_dataset(
            split=split, shuffle_files=False, decoders={image: tfds.decode.SkipDecoding()}
        ).as_numpy_iterator()

    ids = np.asarray([example[label] for example in examples()], np.int32)
    names = tuple(f"tfds:{builder.info.full_name}/{split}/{row}" for row in range(len(ids)))

    def readers() -> Iterator[Callable[[], bytes]]:
        return (functools.partial(bytes, example[image]) for example in examples())

    return Split(names=names, labels=ids, open=readers, any_order=False)
