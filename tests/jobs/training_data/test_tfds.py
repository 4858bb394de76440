"""TensorFlow Datasets: a real data set, generated on the spot."""

import collections
import errno
import io
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

tfds = pytest.importorskip("tensorflow_datasets", reason="the extra `tfds` is not installed")

from images import CLASSES, draw  # noqa: E402

from imagecensus.jobs.training_data import tfds as tfds_module  # noqa: E402
from imagecensus.jobs.training_data.sources import read_training_data  # noqa: E402
from imagecensus.model_export.preprocess import PreprocessSpec  # noqa: E402
from imagecensus.model_export.training.decoded_images import (  # noqa: E402
    ArrayCache,
    StreamedImages,
    decode_images,
)
from imagecensus.model_export.training.labelled_data import SplitFractions  # noqa: E402
from imagecensus.model_export.training.splits import DataError  # noqa: E402


class TinyShapes(tfds.core.GeneratorBasedBuilder):
    """Shapes as tfds stores photos: encoded files and class labels."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=list(CLASSES)),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), description="Shapes."
        )

    def _split_generators(self, manager):
        return {"train": self._examples(0, 10), "test": self._examples(10, 13)}

    def _generate_examples(self):
        raise NotImplementedError

    def _examples(self, start, stop):
        for kind in CLASSES:
            for index in range(start, stop):
                buffer = io.BytesIO()
                draw(kind, index, 24).save(buffer, "PNG")
                buffer.seek(0)
                yield f"{kind}{index}", {"image": buffer, "label": kind}


def test_images_labels_and_splits_are_those_of_the_data_set(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    data = read_training_data("tfds:tiny_shapes", SplitFractions(val=0.2, seed=1))
    assert data.labels == CLASSES
    sizes = {name: len(split) for name, split in data.splits.items()}
    assert sizes == {"train": 32, "val": 8, "test": 12}
    spec = PreprocessSpec(height=24, width=24)
    for name, split in data.splits.items():
        cache = ArrayCache(
            directory=os.path.join(tmp_path, "cache"), memory_bytes=2**20, disk_bytes=0
        )
        images = decode_images(split, spec, cache, name)
        assert not images.broken and len(set(images.names)) == len(split)
        for pixels, label in zip(images.take(np.arange(len(split))), split.labels, strict=True):
            drawn = (np.asarray(draw(CLASSES[label], i, 24)) for i in range(13))
            assert any(np.array_equal(pixels, image) for image in drawn)


def test_a_set_larger_than_the_caches_is_streamed(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    data = read_training_data("tfds:tiny_shapes", SplitFractions(val=0.2, seed=1))
    spec = PreprocessSpec(height=24, width=24)

    def decode(split, size):
        cache = ArrayCache(directory=str(tmp_path / "cache"), memory_bytes=size, disk_bytes=0)
        return decode_images(split, spec, cache, "x")

    for split in data.splits.values():
        kept, streamed = decode(split, 2**20), decode(split, 0)
        assert isinstance(streamed, StreamedImages) and not isinstance(kept, StreamedImages)
        order = np.random.default_rng(0).permutation(len(split))
        assert np.array_equal(streamed.take(order), kept.take(order))
        assert np.array_equal(streamed.hashes, kept.hashes)


def test_a_set_in_another_format_is_read_from_front_to_back_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    usual = read_training_data("tfds:tiny_shapes", SplitFractions(val=0.2, seed=1))
    monkeypatch.setattr(tfds_module, "_records", lambda *_: None)
    other = read_training_data("tfds:tiny_shapes", SplitFractions(val=0.2, seed=1))
    for name, split in usual.splits.items():
        assert np.array_equal(split.labels, other.splits[name].labels)
        contents = [read() for read in split.open()]
        next(iter(other.splits[name].open()))  # a pass that breaks off
        for _ in range(2):  # in any order, from several threads, again
            reads = list(other.splits[name].open())
            with ThreadPoolExecutor(4) as pool:
                found = list(pool.map(lambda read: read(), reversed(reads)))
            assert found[::-1] == contents
    # So it is streamed where the caches are too small.
    cache = ArrayCache(directory=str(tmp_path / "cache"), memory_bytes=0, disk_bytes=0)
    streamed = decode_images(other.splits["test"], PreprocessSpec(height=24, width=24), cache, "x")
    assert isinstance(streamed, StreamedImages) and len(streamed) == 12
    assert streamed.take(np.array([11, 0])).any()


def test_a_full_disk_is_said(monkeypatch):
    def is_full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", is_full)
    with pytest.raises(DataError, match="cannot keep the images.*No space left.*TMPDIR"):
        list(tfds_module._KeptFiles(lambda: iter([b"x"])).open())


@pytest.mark.parametrize("kind", ["array_record", "parquet"])
def test_formats_that_are_read_by_number_are_streamed(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "usual"))
    usual = read_training_data("tfds:tiny_shapes", SplitFractions(val=0.2, seed=1))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "other"))
    TinyShapes(data_dir=str(tmp_path / "other"), file_format=kind).download_and_prepare()
    other = read_training_data("tfds:tiny_shapes", SplitFractions(val=0.2, seed=1))
    found = []
    for data in (usual, other):
        some = collections.Counter()
        for split in data.splits.values():
            with ThreadPoolExecutor(4) as pool:  # in any order, from several threads
                contents = list(pool.map(lambda read: read(), reversed(list(split.open()))))
            some.update(zip(contents, reversed(split.labels.tolist()), strict=True))
        found.append(some)
    assert found[0] == found[1] and found[0].total() == 52


def test_an_unknown_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError, match="tfds:no_such_set: cannot be prepared"):
        read_training_data("tfds:no_such_set", SplitFractions())
