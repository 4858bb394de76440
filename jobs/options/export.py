"""The options of `imagecensus export`."""

from __future__ import annotations

import dataclasses
import os

from imagecensus.jobs.command.options import Options, argument, option

KINDS = (
    "a Keras file (.keras, .h5), ONNX (.onnx), TensorFlow Lite (.tflite), an OpenVINO graph (.xml)"
    " or a SavedModel folder"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """Makes a model folder of a network's file."""

    model: str = argument(KINDS, metavar="MODEL")
    output: str = option(None, "model folder to write", required=True, metavar="MODEL_DIR")
    labels: str = option(
        "",
        "a label per line, or JSON: a list, or {class id: label}; default: those in the file, where"
        " it carries any",
        metavar="FILE",
    )
    input_range: str = option(
        None, "what the network takes pixels as", required=True, choices=("0..1", "-1..1", "0..255")
    )
    mean: str = option(
        "",
        "what is subtracted after --input-range: a number, or one for red, green, blue",
        metavar="R,G,B",
    )
    std: str = option("", "what is divided by after --mean", metavar="R,G,B")
    bgr: bool = option(
        False,
        "the network takes blue first and red last, as Keras' preprocess_input for ResNet and VGG"
        " and images that OpenCV reads have them; --mean and --std stay in the order red, green,"
        " blue",
    )
    logits: bool = option(False, "the network ends without a softmax or sigmoid, which is added")
    probabilities: bool = option(
        False, "its answers are probabilities, although its last layer is no softmax or sigmoid"
    )
    image_size: int = option(0, "pixels a side, where the network takes any")
    resize: str = option(
        "bilinear", "filter of the resize", choices=("nearest", "bilinear", "bicubic", "lanczos")
    )
    crop: str = option("none", "none: squeeze the whole image", choices=("none", "center"))
    name: str = option("", "name of the model; default: the file's")
    images: str | None = option(
        None, "images of the model's kind: make an int8 version, see `imagecensus quantize`",
        metavar="PLACE",
    )  # fmt: skip

    def problems(self) -> list[str]:
        problems = [] if os.path.exists(self.model) else [f"{self.model}: no such file"]
        if self.image_size < 0:
            problems.append("--image-size cannot be negative")
        return problems
