"""A classifier: a backbone, hidden layers, and a softmax."""

from __future__ import annotations

import dataclasses

import keras

from imagecensus.model_export.common.errors import BackboneError
from imagecensus.model_export.common.quantities import counted
from imagecensus.model_export.export import EMBEDDING_LAYER
from imagecensus.model_export.preprocess import PreprocessSpec
from imagecensus.model_export.training.backbones import Backbone, BackboneSpec, build_backbone


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierSpec:
    """Enough to build the same classifier again, weights aside."""

    backbone: BackboneSpec
    preprocess: PreprocessSpec
    classes: int
    hidden: tuple[int, ...] = ()
    dropout: float = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier:
    """Three views of the same layers.

    Attributes:
      model: float32 [N, H, W, 3], normalised -> probabilities float32 [N, classes].
      head: features float32 [N, D] -> probabilities.
      backbone: with its trunk, images -> features.
    """

    model: keras.Model
    head: keras.Model
    backbone: Backbone


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTuning:
    """A classifier cut in two, sharing its layers.

    Attributes:
      lower: images -> what enters the first block that is trained.
      tail: that -> features, through the trained blocks.
      upper: the same -> probabilities.
    """

    lower: keras.Model
    tail: keras.Model
    upper: keras.Model


def split_for_fine_tuning(classifier: Classifier, blocks: int) -> FineTuning:
    """Lets gradients into the last blocks of the trunk; batch norm keeps its averages.

    Raises:
      BackboneError: the trunk cannot be fine-tuned, or has too few blocks.
    """
    backbone, trunk = classifier.backbone, classifier.backbone.trunk
    check_fine_tuning(backbone, blocks)
    trained = {id(layer) for block in backbone.blocks[-blocks:] for layer in block}
    trunk.trainable = True
    for layer in trunk.layers:
        norm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = id(layer) in trained and not norm
    cut = backbone.blocks[-blocks - 1][-1].output
    lower = keras.Model(trunk.input, cut, name="lower")
    tail = keras.Model(cut, trunk.output, name="tail")
    entry = keras.Input(cut.shape[1:])
    upper = keras.Model(entry, classifier.head(tail(entry)), name="upper")
    return FineTuning(lower=lower, tail=tail, upper=upper)


def check_fine_tuning(backbone: Backbone, blocks: int) -> None:
    """Raises BackboneError where that many blocks cannot be fine-tuned."""
    most = len(backbone.blocks) - 1
    if not backbone.can_train or most < 1:
        raise BackboneError(f"--fine-tune {blocks}: this backbone is trained frozen or whole only")
    if blocks > most:
        raise BackboneError(
            f"--fine-tune {blocks}: this backbone has {counted(most, 'block')} to fine-tune"
        )


def build_classifier(spec: ClassifierSpec, load_weights: bool = True) -> Classifier:
    """Builds a classifier in the current strategy's scope.

    Args:
      spec: what to build.
      load_weights: False leaves a pretrained trunk random, to be assigned over.

    Raises:
      BackboneError: the backbone cannot be built; see `build_backbone`.
    """
    backbone = build_backbone(spec.backbone, spec.preprocess, load_weights)
    size = backbone.trunk.output_shape[-1]
    features = x = keras.Input((size,), name="features")
    for index, units in enumerate(spec.hidden):
        x = keras.layers.Dense(units, activation="relu", name=f"hidden_{index}")(x)
        if spec.dropout:
            x = keras.layers.Dropout(spec.dropout, name=f"dropout_{index}")(x)
    if not spec.hidden and spec.dropout:
        x = keras.layers.Dropout(spec.dropout, name="dropout")(x)
    # From zero on given features: what random weights say about directions that few training
    # images touch would stay in them, as noise. (Zero-initialised head: Dosovitskiy et al., "An
    # Image is Worth 16x16 Words", ICLR 2021, section 3.2.)
    linear = spec.backbone.pretrained and not spec.hidden
    x = keras.layers.Dense(
        spec.classes,
        dtype="float32",  # whatever the policy: a softmax over 16-bit logits loses classes
        name="logits",
        kernel_initializer="zeros" if linear else "glorot_uniform",
    )(x)
    head = keras.Model(features, keras.layers.Softmax(dtype="float32")(x), name="head")

    images = keras.Input(spec.preprocess.shape, name="images")
    embedding = keras.layers.Identity(name=EMBEDDING_LAYER)(backbone.trunk(images))
    model = keras.Model(images, head(embedding), name="classifier")
    return Classifier(model=model, head=head, backbone=backbone)
