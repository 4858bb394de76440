"""Augmentation: seeded, bounded, and right side up."""

import numpy as np
import pytest
from images import draw

from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.training.augment import CHANGES, Augmentation, augment, draw_changes

IMAGES = np.stack([np.asarray(draw("triangle", i, 32)) for i in range(6)])


def changed(text, seed=(1, 2)):
    import tensorflow as tf

    augmentation = Augmentation.parse(text)
    changes = draw_changes(augmentation, tf.constant(seed, tf.int64), len(IMAGES), (32, 32))
    assert changes.shape == (len(IMAGES), CHANGES)
    return augment(tf.constant(IMAGES), augmentation, changes).numpy()


def test_the_seed_decides():
    text = "flip,rotation=20,zoom=0.2,shift=0.1,brightness=0.2,contrast=0.3"
    assert np.array_equal(changed(text), changed(text))
    assert not np.array_equal(changed(text), changed(text, seed=(1, 3)))
    assert changed(text).dtype == np.uint8 and changed(text).shape == IMAGES.shape


def test_no_change_is_exact():
    assert np.array_equal(changed("rotation=0,zoom=0"), IMAGES)


def test_flips_are_whole_and_about_half():
    flipped = [
        np.array_equal(one, original[:, ::-1])
        for seed in range(20)
        for one, original in zip(changed("flip", (0, seed)), IMAGES, strict=True)
    ]
    kept = [
        np.array_equal(one, original)
        for seed in range(20)
        for one, original in zip(changed("flip", (0, seed)), IMAGES, strict=True)
    ]
    assert sum(flipped) + sum(kept) == 120 and 35 < sum(flipped) < 85


def test_brightness_moves_the_mean_within_its_limit():
    difference = changed("brightness=0.1").astype(int) - IMAGES
    assert 0 < np.abs(difference).max() <= 26


@pytest.mark.parametrize("text", ["flop", "rotation", "rotation=-1", "zoom=2", "flip=3"])
def test_mistakes_are_named(text):
    with pytest.raises(UserError, match="--augment"):
        Augmentation.parse(text)
