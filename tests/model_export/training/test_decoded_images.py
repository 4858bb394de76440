"""Images that fit no cache are read again; what changed since is refused by name."""

import numpy as np
import pytest
from images import write_class_folders

from imagecensus.model_export.preprocess import PreprocessSpec
from imagecensus.model_export.training.decoded_images import (
    ArrayCache,
    StreamedImages,
    decode_images,
)
from imagecensus.model_export.training.labelled_data import split_of_files
from imagecensus.model_export.training.splits import DataError

SPEC = PreprocessSpec(height=16, width=16)


@pytest.fixture
def split(tmp_path):
    write_class_folders(tmp_path, {"disc": 6}, size=32)
    paths = sorted(map(str, (tmp_path / "disc").iterdir()))
    (tmp_path / "disc" / "disc-0002.jpg").write_bytes(b"no image")
    return split_of_files(paths, range(6))


def decode(split, tmp_path, room):
    return decode_images(
        split,
        SPEC,
        ArrayCache(directory=str(tmp_path / "c"), memory_bytes=room, disk_bytes=0),
        "train",
        max_broken_rate=0.5,
    )


def test_streamed_images_are_the_same(split, tmp_path):
    kept, streamed = decode(split, tmp_path, 2**20), decode(split, tmp_path, 100)
    assert isinstance(streamed, StreamedImages) and not isinstance(kept, StreamedImages)
    assert streamed.names == kept.names and len(streamed) == 5
    assert (streamed.hashes == kept.hashes).all() and streamed.broken == kept.broken
    order = np.array([4, 0, 2, 2, 1, 3])
    assert (streamed.take(order) == kept.take(order)).all()
    assert streamed.take(np.array([], int)).shape == (0, 16, 16, 3)


def test_an_image_that_went_since_is_refused(split, tmp_path):
    streamed = decode(split, tmp_path, 100)
    (tmp_path / "disc" / "disc-0003.jpg").unlink()
    with pytest.raises(DataError, match="changed while it was trained on.*disc-0003"):
        streamed.take(np.arange(5))
    assert len(streamed.failures) == 1
