"""Backbones by name, and the weights that do not fit them."""

import keras
import numpy as np
import pytest
from samples import SHARED_DATA

from imagecensus.model_export.training.backbones import (
    BackboneError,
    BackboneSpec,
    build_backbone,
    default_preprocess,
)
from imagecensus.model_export.training.classifier import (
    ClassifierSpec,
    build_classifier,
    split_for_fine_tuning,
)


def build(name, size=32, **kwargs):
    backbone = BackboneSpec(name=name, **kwargs)
    return build_backbone(backbone, default_preprocess(backbone, size))


@pytest.mark.parametrize(
    "name, match",
    [
        ("resnet", "one of mobilenet_v2"),
        ("cnn", "say which"),
        ("cnn:32-conv", "'conv' is no layer"),
        ("cnn:8-pool-pool-pool-pool-pool-pool", "too many pools"),
        ("cnn:8-gap-8", "nothing comes after gap"),
    ],
)
def test_names_that_mean_nothing(name, match):
    with pytest.raises(BackboneError, match=match):
        build(name)


def test_cnn_is_what_its_config_says():
    trunk = build("cnn:32-32-pool-32-32-pool-32-pool", 64).trunk
    assert trunk.output_shape == (None, 8 * 8 * 32)
    assert trunk.count_params() == 896 + 4 * 9248


def test_sizes_and_alphas_that_cannot_be():
    with pytest.raises(BackboneError, match="32 pixels or more"):
        build("mobilenet_v2", 16, weights="none")
    with pytest.raises(BackboneError, match="--alpha 0.9"):
        build("mobilenet_v2", 96, alpha=0.9)
    with pytest.raises(BackboneError, match="--image-size 9999"):
        default_preprocess(BackboneSpec(), 9999)


def test_weights_that_do_not_fit(tmp_path):
    with pytest.raises(BackboneError, match="no such file"):
        build("mobilenet_v2", 96, weights=str(tmp_path / "absent.h5"))
    (tmp_path / "page.h5").write_text("<html>")
    with pytest.raises(BackboneError, match="page.h5: not a readable Keras weights file"):
        build("mobilenet_v2", 96, weights=str(tmp_path / "page.h5"))
    narrow = str(tmp_path / "narrow.weights.h5")
    keras.applications.MobileNetV2((96, 96, 3), 0.35, include_top=False, weights=None).save_weights(
        narrow
    )
    with pytest.raises(BackboneError, match="it is a file of alpha 0.35: pass --alpha 0.35"):
        build("mobilenet_v2", 96, weights=narrow)
    with pytest.raises(BackboneError, match="--alpha 0.35: VGG16 has one width"):
        build("vgg16", 96, alpha=0.35)
    with pytest.raises(BackboneError, match="parameters, vgg16 has 14,714,688 without its head"):
        build("vgg16", 96, weights=narrow)
    assert build("mobilenet_v2", 96, alpha=0.35, weights=narrow).pretrained


@pytest.mark.real_data
def test_a_file_with_its_head_gives_the_same_trunk():
    files = [
        str(SHARED_DATA / "weights" / f"mobilenet_v2_1.0_224{end}.weights.h5")
        for end in ("", "_no_top")
    ]
    whole, trunk = (build("mobilenet_v2", 96, weights=file).trunk for file in files)
    for one, other in zip(whole.get_weights(), trunk.get_weights(), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    "name, most", [("mobilenet_v2", 18), ("vgg16", 4), ("mobilenet_v3_small", 6), ("resnet50", 17)]
)
def test_fine_tuning_cuts_the_network_without_changing_it(name, most):
    backbone = BackboneSpec(
        name=name, alpha=0.35 if name == "mobilenet_v2" else 1.0, weights="none"
    )
    preprocess = default_preprocess(backbone, 32)
    spec = ClassifierSpec(
        backbone=backbone, preprocess=preprocess, classes=3, hidden=(4,), dropout=0
    )
    classifier = build_classifier(spec)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype("float32")
    expected = classifier.model(images, training=False)
    tuning = split_for_fine_tuning(classifier, 2)
    cut = tuning.upper(tuning.lower(images), training=False)
    assert np.allclose(cut, expected, atol=1e-6)
    assert not tuning.lower.trainable_variables and tuning.upper.trainable_variables
    assert not any("gamma" in v.path for v in tuning.upper.trainable_variables)
    with pytest.raises(BackboneError, match=f"has {most} blocks"):
        split_for_fine_tuning(classifier, most + 1)
