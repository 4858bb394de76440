"""A training's phases: what is cached, what is augmented, what moves."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from images import draw

import imagecensus.model_export.training.fit as fit_module
from imagecensus.model_export.training.augment import Augmentation
from imagecensus.model_export.training.backbones import BackboneSpec, default_preprocess
from imagecensus.model_export.training.classifier import (
    ClassifierSpec,
    build_classifier,
    split_for_fine_tuning,
)
from imagecensus.model_export.training.decoded_images import ArrayCache, Images
from imagecensus.model_export.training.features import (
    TrainingRun,
    TrainingSpec,
    compute_features,
    feature_inputs,
    features_of_activations,
    image_inputs,
)
from imagecensus.model_export.training.fit import (
    FitSpec,
    fit,
    make_strategy,
    predict,
    stream,
)

NARROW = BackboneSpec(alpha=0.35, weights="none")


@pytest.fixture
def images():
    kinds = ("disc", "stripes")
    pixels = np.stack([np.asarray(draw(kinds[i % 2], i, 32)) for i in range(8)])
    labels = np.arange(8, dtype=np.int32) % 2
    names = tuple(map(str, range(8)))
    return Images(pixels=pixels, rows=np.arange(8), labels=labels, names=names)


@pytest.fixture
def spec():
    classifier = ClassifierSpec(
        backbone=NARROW, preprocess=default_preprocess(NARROW, 32), classes=2
    )
    return TrainingSpec(
        classifier=classifier, head=FitSpec(seed=3), augmentation=Augmentation.parse("flip")
    )


def training_run(spec, cache):
    return TrainingRun(spec=spec, strategy=make_strategy(1), work=cache.directory, cache=cache)


def pooled(spec):
    """A stand-in for a trunk whose answer shows what it saw: the image itself."""
    inputs = keras.Input(spec.classifier.preprocess.shape)
    return keras.Model(inputs, keras.layers.Rescaling(1.0)(inputs))


def test_cached_features_are_augmented_after_the_first_pass_only(images, spec, tmp_path):
    cache = ArrayCache(directory=str(tmp_path), memory_bytes=2**24, disk_bytes=0)
    run = training_run(spec, cache)
    model = pooled(spec)
    inputs = compute_features(model, images, run, "train", 3)
    seen = inputs.take(np.arange(24)).reshape(3, 8, 32, 32, 3)
    clean = images.pixels / np.float32(127.5) - 1
    flipped = clean[:, :, ::-1]
    assert np.allclose(seen[0], clean, atol=1e-6)
    for again in seen[1:]:
        same = np.asarray([np.allclose(a, c, atol=1e-5) for a, c in zip(again, clean, strict=True)])
        turned = [np.allclose(a, f, atol=1e-5) for a, f in zip(again, flipped, strict=True)]
        assert np.array_equal(turned, ~same) and any(turned)
    assert not np.array_equal(seen[1], seen[2])
    assert inputs.labels.tolist() == images.labels.tolist() * 3
    # One pass is what validation gets: never augmented.
    once = compute_features(model, images, run, "val")
    assert np.allclose(once.take(np.arange(8)), clean, atol=1e-6)
    # What is cached is counted: 4 x 8 images of 32 x 32 x 3 floats.
    assert cache.used_memory == 4 * 8 * 32 * 32 * 3 * 4


@pytest.fixture(params=["float32", "mixed_float16"])
def policy(request):
    keras.mixed_precision.set_global_policy(request.param)
    yield request.param
    keras.mixed_precision.set_global_policy("float32")


def test_devices_that_augment_do_what_the_pipeline_does(
    images, spec, tmp_path, monkeypatch, policy
):
    """As on GPUs: they get bytes and a few numbers for each image, and results are the same."""
    backbone = BackboneSpec(name="cnn:4-pool-gap", weights="none")
    small = ClassifierSpec(
        backbone=backbone, preprocess=default_preprocess(backbone, 32), classes=2, dropout=0
    )
    augmentation = Augmentation.parse("flip,rotation=20,shift=0.1,brightness=0.1,contrast=0.2")
    spec = dataclasses.replace(spec, classifier=small, augmentation=augmentation)
    inputs = image_inputs(images, small.preprocess, augmentation)
    strategy, found = make_strategy(1), {}
    for there in (False, True):
        monkeypatch.setattr(fit_module, "on_device", lambda there=there: there)
        weights = np.ones(2, np.float32)
        streamed = stream(inputs, batch=4, spec=spec.head, weights=weights, first_epoch=0)
        given = [(kind.dtype.name, *kind.shape) for kind in tf.nest.flatten(streamed.element_spec)]
        item = ("uint8" if there else "float32", 4, 32, 32, 3)
        changes = [("float32", 4, 10)] * there
        assert given == [item, *changes, ("float32", 4, 2), ("float32", 4)]
        cache = ArrayCache(directory=str(tmp_path), memory_bytes=2**24, disk_bytes=0)
        run = training_run(spec, cache)
        seen = compute_features(pooled(spec), images, run, "train", 2).take(np.arange(16))
        keras.utils.set_random_seed(0)
        with strategy.scope():
            model = build_classifier(small).model
        fit_spec = FitSpec(epochs=3, batch_size=4, patience=0, average=0.9)
        state = str(tmp_path / f"{there}.npz")
        history = fit(
            model, inputs, inputs, fit_spec, strategy=strategy, state_file=state, verbose=False
        )
        assert model.layers[1].compute_dtype == policy.removeprefix("mixed_")
        losses = [entry[name] for entry in history for name in ("loss", "val_loss")]
        answers = predict(model, inputs, 4)
        found[there] = [seen, np.asarray(losses), answers, *model.get_weights()]
    for one, other in zip(found[False], found[True], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_fine_tuning_on_cached_activations_moves_the_last_blocks_only(images, spec, tmp_path):
    strategy = make_strategy(1)
    with strategy.scope():
        classifier = build_classifier(spec.classifier)
        tuning = split_for_fine_tuning(classifier, 2)
    before = {v.path: np.asarray(v) for v in classifier.model.weights}
    answers = classifier.model.predict(images.pixels / np.float32(127.5) - 1, verbose=0)
    cache = ArrayCache(directory=str(tmp_path), memory_bytes=2**24, disk_bytes=0)
    run = training_run(spec, cache)
    inputs = compute_features(tuning.lower, images, run, "activations")
    cut = tuning.upper.predict(inputs.take(np.arange(8)), verbose=0)
    assert np.allclose(cut, answers, atol=1e-5)  # the cached way is the whole network's way
    features = features_of_activations(tuning.tail, inputs, "features", cache)
    whole = compute_features(classifier.backbone.trunk, images, run, "whole")
    assert np.allclose(features.take(np.arange(8)), whole.take(np.arange(8)), atol=1e-5)
    nothing = feature_inputs(np.zeros((0, *inputs.shape), np.float32), np.zeros(0, np.int32))
    fit_spec = FitSpec(epochs=2, batch_size=4, learning_rate=1e-2, patience=0)
    state = str(tmp_path / "state.npz")
    fit(tuning.upper, inputs, nothing, fit_spec, strategy=strategy, state_file=state, verbose=False)
    moved = {v.path for v in classifier.model.weights if not np.array_equal(v, before[v.path])}
    last = [layer for block in classifier.backbone.blocks[-2:] for layer in block]
    kernels = {v.path for layer in last for v in layer.weights if "kernel" in v.path}
    head = {v.path for v in classifier.head.weights}
    assert kernels and moved == kernels | head  # no batch norm, and nothing below


def test_a_linear_head_on_pretrained_features_begins_without_an_opinion(spec):
    trunk = dataclasses.replace(NARROW, weights="imagenet")

    def logits(backbone, hidden=()):
        classifier = dataclasses.replace(spec.classifier, backbone=backbone, hidden=hidden)
        layer = build_classifier(classifier, load_weights=False).head.get_layer("logits")
        return np.asarray(layer.kernel)

    assert not logits(trunk).any()
    assert logits(trunk, hidden=(4,)).any()  # zeros would keep gradients from hidden layers
    assert logits(NARROW).any()


def test_16_bit_training_resumes_with_the_same_result(images, tmp_path):
    backbone = BackboneSpec(name="cnn:4-bn-pool-gap", weights="none")
    spec = ClassifierSpec(
        backbone=backbone, preprocess=default_preprocess(backbone, 32), classes=2, dropout=0
    )
    strategy = make_strategy(1)
    items = images.pixels / np.float32(255)
    inputs = feature_inputs(items, images.labels)
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:

        def run(epochs, state):
            keras.utils.set_random_seed(0)
            with strategy.scope():
                model = build_classifier(spec).model
            fit_spec = FitSpec(epochs=epochs, batch_size=4, patience=0, average=0.9)
            history = fit(
                model, inputs, inputs, fit_spec, strategy=strategy, state_file=state, verbose=False
            )
            return model, history

        whole, history = run(4, str(tmp_path / "whole.npz"))
        assert isinstance(whole.optimizer, keras.optimizers.LossScaleOptimizer)
        assert {str(v.dtype) for v in whole.weights} == {"float32"}
        assert whole.layers[1].compute_dtype == "float16"
        run(2, str(tmp_path / "parts.npz"))
        resumed, history_of_parts = run(4, str(tmp_path / "parts.npz"))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        assert np.allclose(one, other, atol=1e-6)
    assert [e["loss"] for e in history] == pytest.approx([e["loss"] for e in history_of_parts])


def test_the_average_of_the_weights_is_kept_and_the_fit_goes_on_from_the_last(images, tmp_path):
    backbone = BackboneSpec(name="cnn:4-pool-gap", weights="none")
    spec = ClassifierSpec(
        backbone=backbone, preprocess=default_preprocess(backbone, 32), classes=2, dropout=0
    )
    inputs = feature_inputs(images.pixels / np.float32(255), images.labels)
    strategy = make_strategy(1)

    def run(epochs, average):
        """The weights that are kept, and those that the last epoch ended with."""
        keras.utils.set_random_seed(0)
        with strategy.scope():
            model = build_classifier(spec).model
        fit_spec = FitSpec(
            epochs=epochs, batch_size=8, patience=0, average=average
        )  # a step an epoch
        state = str(tmp_path / f"{epochs}-{average}.npz")
        history = fit(
            model, inputs, inputs, fit_spec, strategy=strategy, state_file=state, verbose=False
        )
        assert history[-1]["val_loss"] == min(entry["val_loss"] for entry in history)
        with np.load(state) as arrays:
            return model.get_weights(), [arrays[f"now_{i}"] for i in range(len(model.weights))]

    one, two, three = (run(epochs, 0.0)[1] for epochs in (1, 2, 3))
    kept, last = run(3, 0.75)
    for mean, now, *each in zip(kept, last, one, two, three, strict=True):
        assert np.allclose(now, each[2], atol=1e-6)
        expected = 0.75 * (0.75 * each[0] + 0.25 * each[1]) + 0.25 * each[2]
        assert np.allclose(mean, expected, atol=1e-6)
        assert not np.allclose(mean, now, atol=1e-6)


def test_the_spec_says_which_trunks_are_frozen(spec):
    for name, weights, frozen in (
        ("mobilenet_v2", "imagenet", True),
        ("mobilenet_v2", "none", False),
        ("cnn:8", "imagenet", False),
        ("hub:x", "imagenet", True),
    ):
        classifier = dataclasses.replace(
            spec.classifier, backbone=BackboneSpec(name=name, weights=weights)
        )
        assert dataclasses.replace(spec, classifier=classifier).frozen_trunk is frozen
