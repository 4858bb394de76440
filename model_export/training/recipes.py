"""Recipes: the classifiers of the field's tutorials as options of one trainer.

Each function is a recipe: it answers with the options, and its docstring gives the command, how
long it takes on 2 CPU cores (GPUs: a fraction) and what accuracy to expect. A flag on the command
line wins over the recipe's.

Published figures are those of the tutorials, on the whole data sets. Measured ones were reached
with this trainer on the stated images. What is estimated or expected was not run on that data.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from imagecensus.model_export.common.errors import UserError

_AUGMENT = "flip,rotation=15,zoom=0.2,shift=0.1,brightness=0.1,contrast=0.2"
_STRONG = "flip,rotation=15,zoom=0.3,shift=0.1,brightness=0.1,contrast=0.2"


def flowers() -> str:
    """Flower photos: frozen MobileNet-V2, hidden 512 and 256, with augmentation.

    imagecensus train --recipe flowers tfds:oxford_flowers102 --output model

    Duration: 10 minutes, estimated (1,020 training photos in 4 passes, 8,189 to evaluate).
    Accuracy: published about 0.80 on Oxford flowers 102, without the augmentation that its author
    left pending; not measured on that set. (On the bikes this recipe reaches 0.94 on 16.)
    """
    return f"--hidden 512,256 --dropout 0.2 --augment {_AUGMENT}"


def flower_photos() -> str:
    """A few hundred photos of five flowers: larger images, and the last blocks trained too.

    imagecensus train --recipe flower-photos flower_photos --output model

    Duration: 2 minutes, measured (300 photos).
    Accuracy: measured 0.85 to 0.87 on 120 others, three seeds; docs/training.md has the
    cross-validation on the 300.
    """
    return (
        f"--image-size 256 --augment {_STRONG} --feature-passes 8 --val-fraction 0 --patience 0"
        " --epochs 5 --schedule cosine --average-weights 0.99"
        " --fine-tune 5 --fine-tune-epochs 2 --fine-tune-rate 3e-4"
    )


def bikes() -> str:
    """Mountain or road bike: a small CNN on 64x64 images.

    imagecensus train --recipe bikes bikes --output model

    Duration: 40 seconds, measured (100 images).
    Accuracy: published 1.00 on its training images; measured 1.00 there, and 0.94 on 16
    others. Being right about images that it has learnt by heart says little.
    """
    return (
        "--backbone cnn:32-32-pool-32-32-pool-32-pool --image-size 64 --weights none"
        " --hidden 32,16 --dropout 0 --epochs 60 --patience 0 --val-fraction 0 --batch-size 16"
    )


def bikes_transfer() -> str:
    """Mountain or road bike: the same images with transfer learning.

    imagecensus train --recipe bikes-transfer bikes --output model

    Duration: half a minute, measured (100 images).
    Accuracy: measured 0.94 on 16 others, three seeds.
    """
    return "--augment flip --feature-passes 2 --epochs 60 --patience 0 --val-fraction 0"


def mnist() -> str:
    """Handwritten digits: a CNN on 28x28 grey images.

    imagecensus train --recipe mnist mnist_png --output model

    Duration: under a minute, estimated from the CPU time of a run (3,000 digits).
    Accuracy: measured 0.986 to 0.990 on 1,000 others, three seeds.
    """
    return (
        "--backbone cnn:32-pool-64-pool --image-size 28 --color grey --weights none"
        " --hidden 128 --dropout 0.4 --augment rotation=10,zoom=0.1,shift=0.07"
        " --epochs 25 --schedule cosine --patience 0 --val-fraction 0"
    )


def cifar10() -> str:
    """Ten kinds of 32x32 colour images: a deeper CNN with dropout.

    imagecensus train --recipe cifar10 cifar10 --output model

    Duration: 5 minutes, measured (2,000 images).
    Accuracy: published baseline about 0.60 for all 50,000; measured 0.49 to 0.55 for 2,000, three
    seeds.
    """
    return (
        "--backbone cnn:32-bn-32-bn-pool-drop0.2-64-bn-64-bn-pool-drop0.3-128-bn-128-bn-pool"
        " --image-size 32 --weights none --augment flip,shift=0.1 --dropout 0.4"
        " --epochs 40 --schedule cosine --patience 0"
    )


def imagenette() -> str:
    """Ten easy classes of ImageNet: a basic CNN.

    imagecensus train --recipe imagenette tfds:imagenette/160px-v2 --output model

    Duration: an hour, estimated (9,469 training photos, 25 epochs).
    Accuracy: neither published nor measured on that set; 0.6 to 0.7 expected. (On 300 flower photos
    of five kinds, far fewer than it is meant for, it reaches 0.41 on 120 others.)
    """
    return (
        "--backbone cnn:32-pool-64-pool-128-pool-128-pool-gap --image-size 128 --weights none"
        " --hidden 128 --dropout 0.3 --augment flip,shift=0.1 --epochs 25"
    )


def imagenette_vgg16() -> str:
    """Ten easy classes of ImageNet: transfer learning with VGG16.

    imagecensus train --recipe imagenette-vgg16 tfds:imagenette/160px-v2 --output model

    Duration: an hour, estimated (13,394 photos, nearly all of it the trunk's passes).
    Accuracy: neither published nor measured (VGG16's weights were not at hand); 0.95 expected, as
    these classes are among those that the trunk was trained on.
    """
    return "--backbone vgg16 --image-size 160 --hidden 256 --dropout 0.5"


def wildlife() -> str:
    """Oregon wildlife: a TensorFlow Hub module as the trunk.

    imagecensus train --recipe wildlife oregon_wildlife --output model

    Duration: 20 minutes, estimated (14,000 photos of 20 classes).
    Accuracy: neither published nor measured (neither photos nor module were at hand; the recipe was
    run with a hub module of MobileNet-V2 1.0 on the bikes: 0.94 on 16); 0.90 expected.
    """
    return (
        "--backbone hub:https://tfhub.dev/google/imagenet/mobilenet_v2_130_224/feature_vector/5"
        " --dropout 0.2 --balance-classes"
    )


def cats_dogs() -> str:
    """Cats and dogs: a CNN from nothing, with augmentation.

    imagecensus train --recipe cats-dogs cats_dogs --output model

    Duration: 4 minutes on one core, measured (500 photos).
    Accuracy: published 0.66; measured 0.755 on 200 others, one seed.
    """
    return (
        "--backbone cnn:32-pool-64-pool-128-pool-128-pool --image-size 96 --weights none"
        " --hidden 128 --dropout 0.5 --augment flip,rotation=15,zoom=0.2,shift=0.1"
        " --epochs 40 --patience 10"
    )


def cats_dogs_transfer() -> str:
    """Cats and dogs: a frozen MobileNet-V2 and one layer.

    imagecensus train --recipe cats-dogs-transfer cats_dogs --output model

    Duration: 40 seconds, measured (500 photos).
    Accuracy: measured 0.98 to 0.985 on 200 others, three seeds.
    """
    return ""


RECIPES: dict[str, Callable[[], str]] = {
    recipe.__name__.replace("_", "-"): recipe
    for recipe in (
        flowers,
        flower_photos,
        bikes,
        bikes_transfer,
        mnist,
        cifar10,
        imagenette,
        imagenette_vgg16,
        wildlife,
        cats_dogs,
        cats_dogs_transfer,
    )
}
NAMES = tuple(RECIPES)


def recipe_flags(name: str) -> list[str]:
    """The options of a recipe as command-line words. Raises UserError for an unknown one."""
    if name not in RECIPES:
        raise UserError(f"--recipe {name}: unknown; there are {', '.join(NAMES)}")
    return RECIPES[name]().split()


def describe_recipes() -> str:
    """All recipes with their docstrings and options, for people."""
    return "\n\n".join(
        f"{name}: {inspect.getdoc(recipe)}\n\nOptions: {recipe() or '(the defaults)'}"
        for name, recipe in RECIPES.items()
    )
