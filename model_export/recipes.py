"""Recipes: the classifiers of the field's tutorials as options of one trainer.

Each function is a recipe: it answers with the options, and its docstring gives the command, how
long it takes on 2 CPU cores (GPUs: a fraction) and what accuracy to expect. A flag on the command
line wins over the recipe's.

Published figures are those of the tutorials, on the whole data sets; measured ones were reached
with this trainer on the stated pictures.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from model_export.errors import UserError

_AUGMENT = "flip,rotation=15,zoom=0.2,shift=0.1,brightness=0.1,contrast=0.2"


def flowers() -> str:
    """Flower photos: frozen MobileNet-V2, hidden 512 and 256, with augmentation.

    imagecensus train --recipe flowers tfds:oxford_flowers102 --output model

    About 20 minutes for Oxford flowers 102 (1020 training photos, 4 passes). Published: about 0.80
    test accuracy without the augmentation, which its author left pending.
    """
    return f"--hidden 512,256 --dropout 0.2 --augment {_AUGMENT}"


def bikes() -> str:
    """Mountain or road bike: a small CNN on 64x64 pictures.

    imagecensus train --recipe bikes bikes --output model

    Under 2 minutes for 100 pictures. Published: 1.00 on its training pictures (which says nothing
    about others: expect 0.7 to 0.9 on the test).
    """
    return (
        "--backbone cnn:32-32-pool-32-32-pool-32-pool --image-size 64 --weights none"
        " --hidden 32,16 --dropout 0 --epochs 60 --patience 0 --val-fraction 0 --batch-size 16"
    )


def bikes_transfer() -> str:
    """Mountain or road bike: the same pictures with transfer learning.

    imagecensus train --recipe bikes-transfer bikes --output model

    About 1 minute for 100 pictures. Expect 0.93 or more on the test.
    """
    return "--augment flip --feature-passes 2 --epochs 60 --patience 0 --val-fraction 0"


def mnist() -> str:
    """Handwritten digits: a CNN on 28x28 grey pictures.

    imagecensus train --recipe mnist mnist_png --output model

    About 2 minutes for 3,000 digits: expect 0.97; 0.99 for all 60,000.
    """
    return (
        "--backbone cnn:32-pool-64-pool --image-size 28 --color grey --weights none"
        " --hidden 128 --dropout 0.4 --epochs 15"
    )


def cifar10() -> str:
    """Ten kinds of 32x32 colour pictures: a deeper CNN with dropout.

    imagecensus train --recipe cifar10 cifar10 --output model

    About 5 minutes for 2,000 pictures: expect 0.45 or more. Published baseline for all 50,000:
    about 0.60.
    """
    return (
        "--backbone cnn:32-bn-32-bn-pool-drop0.2-64-bn-64-bn-pool-drop0.3-128-bn-128-bn-pool"
        " --image-size 32 --weights none --augment flip,shift=0.1 --dropout 0.4"
        " --epochs 40 --schedule cosine --patience 0"
    )


def imagenette() -> str:
    """Ten easy classes of ImageNet: a basic CNN.

    imagecensus train --recipe imagenette tfds:imagenette/160px-v2 --output model

    About 40 minutes for the 9,500 photos. Expect 0.6 to 0.7.
    """
    return (
        "--backbone cnn:32-pool-64-pool-128-pool-128-pool-gap --image-size 128 --weights none"
        " --hidden 128 --dropout 0.3 --augment flip,shift=0.1 --epochs 25"
    )


def imagenette_vgg16() -> str:
    """Ten easy classes of ImageNet: transfer learning with VGG16.

    imagecensus train --recipe imagenette-vgg16 tfds:imagenette/160px-v2 --output model

    About an hour for the 9,500 photos, nearly all of it the trunk's one pass. Expect 0.95 or more.
    """
    return "--backbone vgg16 --image-size 160 --hidden 256 --dropout 0.5"


def wildlife() -> str:
    """Oregon wildlife: a TensorFlow Hub module as the trunk.

    imagecensus train --recipe wildlife oregon_wildlife --output model

    About 20 minutes for the 14,000 photos of 20 classes. Expect 0.90 or more.
    """
    return (
        "--backbone hub:https://tfhub.dev/google/imagenet/mobilenet_v2_130_224/feature_vector/5"
        " --dropout 0.2 --balance-classes"
    )


def cats_dogs() -> str:
    """Cats and dogs: a CNN from nothing, with augmentation.

    imagecensus train --recipe cats-dogs cats_dogs --output model

    About 10 minutes for 500 photos. Published: 0.66.
    """
    return (
        "--backbone cnn:32-pool-64-pool-128-pool-128-pool --image-size 96 --weights none"
        " --hidden 128 --dropout 0.5 --augment flip,rotation=15,zoom=0.2,shift=0.1"
        " --epochs 40 --patience 10"
    )


def cats_dogs_transfer() -> str:
    """Cats and dogs: a frozen MobileNet-V2 and one layer.

    imagecensus train --recipe cats-dogs-transfer cats_dogs --output model

    Half a minute for 500 photos. Expect 0.97 or more.
    """
    return ""


_RECIPES: dict[str, Callable[[], str]] = {
    recipe.__name__.replace("_", "-"): recipe
    for recipe in (
        flowers,
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
NAMES = tuple(_RECIPES)


def recipe_flags(name: str) -> list[str]:
    """The options of a recipe as command-line words. Raises UserError for an unknown one."""
    if name not in _RECIPES:
        raise UserError(f"--recipe {name}: unknown; there are {', '.join(NAMES)}")
    return _RECIPES[name]().split()


def describe_recipes() -> str:
    """All recipes with their docstrings and options, for people."""
    return "\n\n".join(
        f"{name}: {inspect.getdoc(recipe)}\n\nOptions: {recipe() or '(the defaults)'}"
        for name, recipe in _RECIPES.items()
    )
