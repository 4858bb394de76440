"""Networks in files that OpenVINO reads: ONNX, TensorFlow SavedModel and Lite, OpenVINO's own.

Reading one runs nothing of it: OpenVINO knows no operation that touches files or the network, and
no Python.
"""

from __future__ import annotations

from imagecensus.model_export.common.quiet_openvino import quiet_parsers  # before OpenVINO

# isort: split
import ast
import dataclasses
import functools
import os
import re
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.foreign.labels import labels_of_tree, parse_labels
from imagecensus.model_export.foreign.network_checks import FirstLayers, check_size

SUFFIXES = (".onnx", ".tflite", ".xml")
# Where files carry their labels: Ultralytics', Hugging Face's and other exporters', OpenVINO's.
_LABEL_KEYS = ("names", "labels", "class_names", "classes", "id2label", "class_labels")
_INPUT_TYPES = ("f32", "f16", "bf16", "u8")
# What changes the form of answers, not their values.
_FORMAL = ("Convert", "FakeQuantize", "Reshape", "Result", "Squeeze", "Transpose", "Unsqueeze")
_ENDINGS = {"Softmax": "softmax", "Sigmoid": "sigmoid"}
_OUTSIDE = re.compile(r"externally stored data in file \(([^,]+),")  # of ONNX
_Array = NDArray[np.float64]
_WEIGHTED = ("Convolution", "FullyConnected", "MatMul")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphFile:
    """A network as its file says it.

    Attributes:
      source: the file or folder, for messages.
      graph: the `openvino.Model`.
      scores: the output port of the graph that gives a score for each class.
      height, width: of the images that it takes, in pixels.
      channels: 1 or 3.
      channels_first: it takes [N, C, H, W], else [N, H, W, C].
      batch: images that it takes at a time; 0: any number.
      element_type: what it takes pixels as, as "f32".
      classes: how many scores.
      blue_first: it takes blue, green and red in this order.
    """

    source: str
    graph: Any
    scores: Any
    height: int
    width: int
    channels: int
    channels_first: bool
    batch: int
    element_type: str
    classes: int
    blue_first: bool = False

    @property
    def ending(self) -> str:
        """What the scores went through last: "softmax", "sigmoid", or "linear" for neither."""
        return _ending(self.scores)

    def features(self) -> tuple[Any, list[int]]:
        """The embedding: the port that the last weighted layer before the scores takes, and the
        axes of places in the image, whose mean is to be taken.
        """
        weighted = [node for node in _ancestors(self.scores) if node.get_type_name() in _WEIGHTED]
        for node in weighted:
            moving = [port for port in node.input_values() if not _is_constant(port)]
            if len(moving) == 1:  # both, where attention multiplies answers by answers
                rank = len(moving[0].partial_shape)
                first = 2 if node.get_type_name() == "Convolution" else 1  # [N, C, h, w] or [N, D]
                return moving[0], list(range(first, rank if first == 2 else rank - 1))
        return self.scores, []

    def infer(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores float32 [N, classes] of normalised pixels [N, H, W, channels]."""
        answers = run_graph(self.graph, self.arranged(pixels), self.batch, [self.scores])[0]
        return answers.reshape(len(pixels), self.classes).astype(np.float32)

    def arranged(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Pixels [N, H, W, channels] as the graph takes them."""
        if self.element_type == "u8":
            pixels = pixels.round().clip(0, 255)
        if self.blue_first:
            pixels = pixels[..., ::-1]
        return pixels.transpose(0, 3, 1, 2) if self.channels_first else pixels

    def first_layers(self) -> FirstLayers:
        """What the network does with pixels first."""
        own = _scaling(self.graph.get_parameters()[0], 3)
        convolution = _only_consumer(own.last)
        if convolution is None or convolution.get_type_name() != "Convolution":
            return own.layers
        norm = _only_consumer(convolution)
        if norm is not None and norm.get_type_name() == "BatchNormInference":
            mean, variance = (_data(norm.input_value(at)) for at in (3, 4))
        else:
            # A batch norm that became a factor and a shift; its gamma is near 1, its beta near 0.
            norm = _scaling(convolution, convolution.output(0).partial_shape[1].get_length()).layers
            if norm.scale.size == 1:
                return own.layers
            mean, variance = -norm.offset / norm.scale, 1 / norm.scale**2
        answers = functools.partial(_answers_of, self, convolution.output(0))
        return dataclasses.replace(own.layers, mean=mean, variance=variance, answers=answers)


class _Scaling(NamedTuple):
    """What constants do to a node's answers, and the last node that does."""

    layers: FirstLayers
    last: Any


def _scaling(node: Any, channels: int) -> _Scaling:
    """Follows a node's answers while only constants, of each channel or of all, change them."""
    scale, offset, names, normalises = np.ones(1), np.zeros(1), [], False
    while (following := _only_consumer(node)) is not None:
        kind = following.get_type_name()
        if kind in _ARITHMETIC:
            constant = _value(following, node)
            if constant is None or constant.size not in (1, channels):
                break
            scale, offset = _ARITHMETIC[kind](scale, offset, constant.reshape(-1).astype(float))
            names.append(following.get_friendly_name())
            normalises |= constant.size > 1 and kind in ("Multiply", "Divide")
        elif kind not in _FORMAL:
            break
        node = following
    layers = FirstLayers(names=tuple(names), scale=scale, offset=offset, normalises=normalises)
    return _Scaling(layers, node)


def is_graph_file(path: str) -> bool:
    """Whether a file or folder is one that `read_graph` reads."""
    if os.path.isdir(path):
        return os.path.isfile(os.path.join(path, "saved_model.pb"))
    return path.lower().endswith(SUFFIXES)


def read_graph(path: str, classes: int = 0, image_size: int = 0) -> GraphFile:
    """Reads a network.

    Args:
      path: .onnx, .tflite or .xml file, or a SavedModel folder.
      classes: the number of labels, which says which of several outputs it is; 0: unknown.
      image_size: pixels a side, where the network takes any.

    Raises:
      UserError: it cannot be read, or takes or answers something else than a classifier does.
    """
    graph = _read(path)
    if len(graph.inputs) != 1 or graph.input(0).partial_shape.rank.is_dynamic:
        names = ", ".join(port.get_any_name() for port in graph.inputs)
        raise UserError(f"{path}: takes {len(graph.inputs)} inputs ({names}); expected images")
    shape = [side.get_length() if side.is_static else 0 for side in graph.input(0).partial_shape]
    kind = graph.input(0).element_type.get_type_name()
    axis = 1 if len(shape) == 4 and shape[1] in (1, 3) else 3
    if len(shape) != 4 or shape[axis] not in (1, 3) or kind not in _INPUT_TYPES:
        raise UserError(
            f"{path}: takes {graph.input(0).partial_shape} of {kind}; expected images [N, 3,"
            " height, width] or [N, height, width, 3] of 32 bits"
        )
    height, width = check_size(path, shape[2:] if axis == 1 else shape[1:3], image_size)
    _fix_size(path, graph, [shape[axis], height, width] if axis == 1 else [height, width, 3])
    scores, found = _scores(path, graph, classes)
    return GraphFile(
        source=path,
        graph=graph,
        scores=scores,
        height=height,
        width=width,
        channels=shape[axis],
        channels_first=axis == 1,
        batch=shape[0],
        element_type=kind,
        classes=found,
    )


def _read(path: str) -> Any:
    """The `openvino.Model` of a file. Raises UserError."""
    try:
        with quiet_parsers():
            return ov.Core().read_model(path)
    except Exception as error:
        raise UserError(f"{path}: OpenVINO cannot read it: {_cause(error)}") from None


def read_graph_labels(path: str) -> list[str]:
    """The labels that a file carries; none: []. Raises UserError: it or they cannot be read."""
    if zipfile.is_zipfile(path):  # what TensorFlow Lite packs behind a network
        with zipfile.ZipFile(path) as files:
            texts = [name for name in files.namelist() if name.lower().endswith(".txt")]
            return parse_labels(path, files.read(texts[0])) if len(texts) == 1 else []
    if not is_graph_file(path):
        return []
    info = _read(path).get_rt_info()
    for holder in ("framework", "model_info"):
        facts = _plain(info[holder]) if holder in info else {}
        for key in _LABEL_KEYS:
            if isinstance(facts, dict) and key in facts:
                return labels_of_tree(path, _tree(str(_plain(facts[key]))))
    return []


def run_graph(graph: Any, pixels: NDArray[Any], batch: int, ports: list[Any]) -> list[NDArray[Any]]:
    """Answers of ports for a graph's one input, in full precision.

    Args:
      graph: an `openvino.Model`.
      pixels: [N, ...] what it takes.
      batch: as many as it takes at a time; 0: one.
      ports: of nodes in the graph; each answers with [N, ...].
    """
    results = [ov.op.Result(port) for port in ports]
    cut = ov.Model(results, graph.get_parameters())
    compiled = ov.Core().compile_model(cut, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    rows = batch or 1
    answers: list[list[NDArray[Any]]] = [[] for _ in ports]
    wanted = graph.input(0).element_type.to_dtype()
    for start in range(0, len(pixels), rows):
        block = pixels[start : start + rows].astype(wanted)
        padding = np.zeros((rows - len(block), *block.shape[1:]), block.dtype)
        answered = compiled(np.ascontiguousarray(np.concatenate([block, padding])))
        for index, kept in enumerate(answers):
            kept.append(np.array(answered[index])[: len(block)])
    return [np.concatenate(kept) for kept in answers]


_ARITHMETIC: dict[str, Callable[[_Array, _Array, _Array], tuple[_Array, _Array]]] = {
    "Multiply": lambda scale, offset, value: (scale * value, offset * value),
    "Divide": lambda scale, offset, value: (scale / value, offset / value),
    "Add": lambda scale, offset, value: (scale, offset + value),
    "Subtract": lambda scale, offset, value: (scale, offset - value),
}


def _only_consumer(node: Any) -> Any:
    """The node that takes a node's answers; None where none or several do."""
    takers = [port.get_node() for port in node.output(0).get_target_inputs()]
    takers = [taker for taker in takers if taker.get_type_name() != "ShapeOf"]
    return takers[0] if len(takers) == 1 else None


def _value(node: Any, moving: Any) -> NDArray[Any] | None:
    """The constant that a node of two inputs takes beside another node's answers, second."""
    one, other = node.input_values()
    if one.get_node().get_name() != moving.get_name():
        if node.get_type_name() in ("Divide", "Subtract"):
            return None
        other = one
    return _data(other)


def _data(port: Any) -> NDArray[Any] | None:
    node = port.get_node()
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return node.get_data() if node.get_type_name() == "Constant" else None


def _answers_of(file: GraphFile, port: Any, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """[M, channels] of a port that answers [N, channels, h, w] for pixels [N, H, W, C]."""
    answers = run_graph(file.graph, file.arranged(pixels), file.batch, [port])[0]
    return np.moveaxis(answers, 1, -1).reshape(-1, answers.shape[1])


def _fix_size(path: str, graph: Any, image: list[int]) -> None:
    try:
        graph.reshape([graph.input(0).partial_shape[0], *image])
    except Exception as error:
        raise UserError(
            f"{path}: does not take images of {image}: {_cause(error)}; choose another --image-size"
        ) from None


def _scores(path: str, graph: Any, classes: int) -> tuple[Any, int]:
    """The port of the scores, and how many there are."""
    counts = []
    for port in graph.outputs:
        _, *rest = port.partial_shape if port.partial_shape.rank.is_static else [0, ov.Dimension()]
        known = [side.get_length() for side in rest if side.is_static]
        many = [side for side in known if side > 1]
        fits = bool(known) and len(known) == len(rest) and len(many) <= 1
        counts.append((many or [1])[0] if fits else 0)
    fitting = [i for i, count in enumerate(counts) if count]
    if len(fitting) > 1:
        fitting = [i for i in fitting if counts[i] == classes]
    if len(fitting) > 1:  # beside features of as many numbers
        fitting = [i for i in fitting if _ending(graph.output(i)) != "linear"]
    if len(fitting) != 1:
        shapes = ", ".join(f"{port.partial_shape}" for port in graph.outputs)
        raise UserError(
            f"{path}: answers {shapes}; expected scores [N, classes], once"
            + (f" with {classes} classes" if classes else "")
        )
    return graph.output(fitting[0]).get_node().input_value(0), counts[fitting[0]]


def _ending(port: Any) -> str:
    """What answers went through last: "softmax", "sigmoid", or "linear" for neither."""
    node = port.get_node()
    while node.get_type_name() in _FORMAL:
        node = node.input_value(0).get_node()
    return _ENDINGS.get(node.get_type_name(), "linear")


def _ancestors(port: Any) -> list[Any]:
    """The nodes that lead to a port, the nearest to it first."""
    seen: dict[str, Any] = {}
    level = [port.get_node()]
    while level:
        for node in level:
            seen.setdefault(node.get_name(), node)
        above = [value.get_node() for node in level for value in node.input_values()]
        fresh = {node.get_name(): node for node in above if node.get_name() not in seen}
        level = list(fresh.values())
    return list(seen.values())


def _is_constant(port: Any) -> bool:
    return all(node.get_type_name() != "Parameter" for node in _ancestors(port))


def _plain(value: Any) -> Any:
    """Of what OpenVINO wraps values in."""
    return getattr(value, "value", value)


def _tree(text: str) -> Any:
    """Of JSON or of Python's own notation; else the words, which OpenVINO keeps blanks between."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text.split("\n" if "\n" in text else "," if "," in text else None)


def _cause(error: Exception) -> str:
    """What went wrong, without where in OpenVINO's sources."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    if outside := _OUTSIDE.search(str(error)):
        return f"its weights lie in {outside[1]}, which is not beside it or is cut short"
    if any(line.startswith("Unable to read the model") for line in said):
        return "it is cut short or damaged, or of another format than its suffix says"
    return " ".join(said)[:1000] or type(error).__name__
