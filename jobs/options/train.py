"""The options of `imagecensus train`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Self

from imagecensus.jobs.command.options import Options, argument, option, size_in_bytes
from imagecensus.model_export.training.recipes import describe_recipes, recipe_flags


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions(Options):
    """Trains a classifier and exports it."""

    data: str = argument(
        "folder of class folders (or of train, val, test), manifest (.csv, .jsonl, .parquet; on"
        " disk or in a store), or tfds:NAME",
        metavar="DATA",
    )
    output: str = option(None, "model folder to write", required=True, metavar="MODEL_DIR")
    recipe: str = option("", "start from a known task's options; --list-recipes shows them")
    name: str = option("", "name of the model; default: the output folder's")

    label_column: str = option("label", "manifest: column of the class", "data")
    path_column: str = option("", "manifest: column of the image's path", "data")
    split_column: str = option("split", "manifest: column of train, val or test", "data")
    val_fraction: float = option(0.1, "share cut for validation, where DATA has none", "data")
    test_fraction: float = option(0.15, "share cut for the test, where DATA has none", "data")
    max_broken_rate: float = option(0.05, "largest share of unreadable images", "data")
    cache_memory: int = option(
        2**31, "decoded images in memory", "data", type=size_in_bytes, metavar="SIZE"
    )
    cache_disk: int = option(
        20 * 2**30, "decoded images on disk", "data", type=size_in_bytes, metavar="SIZE"
    )

    backbone: str = option(
        "mobilenet_v2",
        "mobilenet_v2; any other network of keras.applications (mobilenet_v3_small,"
        " efficientnet_v2_b0, convnext_tiny, resnet50, vgg16 ...); cnn:32-32-pool-64-pool (numbers"
        " are convolutions; pool, bn, drop0.25, gap); or hub:URL",
        "network",
    )
    alpha: float = option(
        1.0,
        "width of mobilenet_v2 (0.35, 0.5, 0.75, 1.0, 1.3, 1.4) and the other mobilenets",
        "network",
    )
    weights: str = option("imagenet", "imagenet (downloaded), none, or a file", "network")
    trust_model: bool = option(
        False, "use a hub module whose graph may touch files or the network", "network"
    )
    image_size: int = option(0, "pixels a side; 0 takes the backbone's own", "network")
    crop: str = option(
        "none",
        "what of an image is seen: none squeezes all of it, center keeps the middle of its shorter"
        " side's 0.875, best trains both and keeps the one that does better on validation",
        "network",
        choices=("none", "center", "best"),
    )
    color: str = option("rgb", "rgb or grey", "network", choices=("rgb", "grey"))
    hidden: str = option("", "hidden layers of the head, e.g. 512,256", "network")
    dropout: float = option(0.2, "before the last layer and after each hidden one", "network")

    epochs: int = option(50, "most epochs", "schedule")
    batch_size: int = option(
        32, "images of a batch, split over all replicas: their number changes no result", "schedule"
    )
    learning_rate: float = option(1e-3, "learning rate of Adam", "schedule")
    schedule: str = option(
        "constant", "course of the learning rate", "schedule", choices=("constant", "cosine")
    )
    patience: int = option(
        8, "epochs without a better validation loss before stopping; 0: never", "schedule"
    )
    label_smoothing: float = option(0.0, "label smoothing, 0 to 1", "schedule")
    average_weights: float = option(
        0.0,
        "keep a running average of the weights with this momentum, e.g. 0.99, instead of the last"
        " ones; 0: none",
        "schedule",
    )
    balance_classes: bool = option(False, "weigh rare classes up", "schedule")
    augment: str = option(
        "",
        "training images only: flip,rotation=15,zoom=0.2,shift=0.1,brightness=0.2,contrast=0.2",
        "schedule",
    )
    feature_passes: int = option(
        0,
        "frozen trunk: passes over the images, those after the first augmented; 0: 1, or 4 with"
        " --augment",
        "schedule",
    )
    fine_tune: int = option(0, "then train the last N blocks of the trunk too", "schedule")
    fine_tune_epochs: int = option(10, "most epochs of the fine-tuning", "schedule")
    fine_tune_rate: float = option(1e-4, "learning rate of the fine-tuning", "schedule")
    seed: int = option(0, "seed of split, weights, order and augmentation", "schedule")
    mixed_precision: str = option(
        "auto",
        "16-bit arithmetic, weights stay 32-bit; auto: float16 on a GPU (bfloat16 suits CPUs)",
        "schedule",
        choices=("auto", "float16", "bfloat16", "off"),
    )

    replicas: int = option(0, "GPUs (or CPU devices) to use; 0: all", "run")
    fresh: bool = option(False, "throw an unfinished training away instead of resuming it", "run")
    quiet: bool = option(False, "print the figures only", "run")
    no_int8: bool = option(
        False, "make no int8 version (which needs nncf: imagecensus[quantize])", "run"
    )

    @classmethod
    def parse(cls, argv: Sequence[str], prog: str) -> Self:
        """With the flags of `--recipe` before those given, so that the user's own win."""
        if "--list-recipes" in argv:
            print(describe_recipes())
            raise SystemExit(0)
        options = super().parse(argv, prog)
        if not options.recipe:
            return options
        return super().parse([*recipe_flags(options.recipe), *argv], prog)

    def problems(self) -> list[str]:
        problems = []
        positive = ("alpha", "epochs", "batch_size", "learning_rate", "fine_tune_epochs")
        for name in (*positive, "fine_tune_rate"):
            if getattr(self, name) <= 0:
                problems.append(f"--{name.replace('_', '-')} must be more than 0")
        for name in ("patience", "fine_tune", "feature_passes", "seed", "image_size", "replicas"):
            if getattr(self, name) < 0:
                problems.append(f"--{name.replace('_', '-')} cannot be negative")
        for name in ("dropout", "label_smoothing", "average_weights", "max_broken_rate"):
            if not 0 <= getattr(self, name) < 1:
                problems.append(f"--{name.replace('_', '-')} must be within [0, 1)")
        return problems
