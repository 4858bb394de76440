"""What a model knows of its training images, and damaged files of it."""

import io

import numpy as np
import pytest

from imagecensus.model_export.contract import EXTRA, ModelError
from imagecensus.model_export.trained_images import (
    TRAINED_IMAGES_FILE,
    collect_trained_images,
    hash_content,
    parse_trained_images,
    salted,
    write_trained_images,
)

SALT = b"of one training"


def trained_on(train, val=(), salt=SALT):
    def columns(files):
        return (
            np.array([salted(hash_content(file), salt) for file in files], np.uint64),
            np.array([len(file) for file in files], np.int64),
        )

    return collect_trained_images(salt, columns(train), columns(val))


def find(trained, file):
    return trained.find(hash_content(file), len(file))


def test_each_training_image_is_found_and_no_other(tmp_path):
    files = [bytes([i]) * (100 + i) for i in range(50)]
    write_trained_images(str(tmp_path), trained_on(files[:30], files[25:40]))
    path = tmp_path / EXTRA / TRAINED_IMAGES_FILE
    found = parse_trained_images(path.read_bytes(), str(path))
    assert len(found) == 40
    assert [find(found, file) for file in files] == ["train"] * 30 + ["val"] * 10 + [""] * 10
    # Of the same size, and with a byte more: other images.
    assert not find(found, b"x" + files[0][1:]) and not find(found, files[0] + b"\0")


def test_the_hashes_of_two_models_have_nothing_in_common():
    one, other = trained_on([b"a", b"b"]), trained_on([b"a", b"b"], salt=b"another")
    assert not set(one.hashes.tolist()) & set(other.hashes.tolist())


def test_no_images_at_all(tmp_path):
    write_trained_images(str(tmp_path), trained_on([]))
    path = tmp_path / EXTRA / TRAINED_IMAGES_FILE
    assert parse_trained_images(path.read_bytes(), "x").find(hash_content(b"a"), 1) == ""


def damaged():
    def packed(**columns):
        file = io.BytesIO()
        np.savez(file, **columns)
        return file.getvalue()

    hashes, sizes = np.zeros(2, np.uint64), np.zeros(2, np.int64)
    salt, flags = np.zeros(4, np.uint8), np.zeros(2, bool)
    yield b""
    yield b"PK\x03\x04 cut"
    yield packed(salt=salt, hashes=hashes, sizes=sizes)
    yield packed(salt=salt, hashes=hashes, sizes=sizes[:1], validation=flags)
    yield packed(salt=salt, hashes=sizes, sizes=sizes, validation=flags)
    yield packed(salt=np.zeros(65, np.uint8), hashes=hashes, sizes=sizes, validation=flags)
    yield packed(salt=salt, hashes=np.array([SALT, SALT], object), sizes=sizes, validation=flags)


@pytest.mark.parametrize("content", list(damaged()))
def test_damaged_hashes_are_refused_by_name(content):
    with pytest.raises(ModelError, match=r"model/trained\.npz: cannot be read"):
        parse_trained_images(content, "model/trained.npz")
