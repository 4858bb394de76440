"""Networks whose layers bring gradients of their own are exported like others."""

import keras
import numpy as np
from keras import layers

from imagecensus.model_export.contract import read_golden
from imagecensus.model_export.default_model import make_golden_images
from imagecensus.model_export.export import export_classifier
from imagecensus.model_export.preprocess import PreprocessSpec
from imagecensus.model_export.verify import check_model


def test_a_network_with_swish_is_exported_and_answers_the_same(tmp_path):
    keras.utils.set_random_seed(0)
    images = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 3, strides=2, use_bias=False)(images)  # as EfficientNetV2's stem
    x = layers.Activation("swish")(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D(name="embedding")(x)
    model = keras.Model(images, layers.Dense(3, "softmax")(x))
    spec, folder = PreprocessSpec(height=32, width=32), str(tmp_path / "m")
    golden = make_golden_images(spec)
    export_classifier(model, spec, ["a", "b", "c"], folder, name="m", golden_images=golden)
    findings = check_model(folder)
    assert all(finding.ok for finding in findings), findings
    answers = model(golden * np.float32(spec.scale) + np.float32(spec.offset), training=False)
    expected = -np.sort(-answers.numpy(), axis=1)
    from_export = read_golden(folder).scores
    np.testing.assert_allclose(from_export, expected, atol=1e-5)
