"""From a network that OpenVINO reads to a model folder: `openvino_model.xml` and its contract.

The graph takes `images` uint8 [N, H, W, 3] and answers as the signature `serving_default` of
`export_classifier` does: class_ids int32 [N, K], scores float32 [N, K], embedding float32 [N, D].
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from imagecensus.model_export.common.atomic import atomic_folder
from imagecensus.model_export.common.version import __version__
from imagecensus.model_export.contract import (
    OPENVINO_FILE,
    Contract,
    Golden,
    ModelError,
    Pixels,
    check_target,
    read_contract,
    write_contract,
)
from imagecensus.model_export.foreign.graph_file import GraphFile, run_graph
from imagecensus.model_export.preprocess import PreprocessSpec

_OUTPUTS = ("class_ids", "scores", "embedding")
_LIMIT = 1e-4  # of the difference between the network's own scores and the model's


def export_graph(
    read: Callable[[], GraphFile],
    spec: PreprocessSpec,
    labels: list[str],
    directory: str,
    *,
    name: str,
    activation: str,
    golden_images: Pixels,
    top_k: int,
    training: dict[str, Any],
) -> Contract:
    """Writes a model folder of a network; it appears whole or not at all.

    Args:
      read: reads the network anew; building upon a graph changes it.
      spec: preprocessing for it.
      labels: one per class; of a network of one output, two: the second is the output's.
      directory: must not exist, or be an earlier export, which is replaced.
      name: of the model, for people.
      activation: "softmax" or "sigmoid", which the network lacks; "" for none.
      golden_images: uint8 [G, H, W, 3], non-trivial images; their answers are recorded.
      top_k: classes per answer, cut to the number of labels.
      training: provenance for the contract.

    Raises:
      ModelError: the model does not answer as the network does; or the folder holds something else.
    """
    check_target(directory)
    expected = _expected(read(), spec, activation, golden_images)
    top_k = min(top_k, len(labels))
    graph = _batched(read, spec, activation, top_k)
    with atomic_folder(directory) as partial:
        ov.save_model(graph, os.path.join(partial, OPENVINO_FILE), compress_to_fp16=False)
        class_ids, scores, embedding = answer_of_graph(partial, golden_images)
        golden = Golden(images=golden_images, class_ids=class_ids, scores=scores)
        own = np.take_along_axis(expected, class_ids, axis=1)
        difference = float(np.abs(own - scores).max())
        if not difference <= _LIMIT:
            raise ModelError(
                f"{directory}: its scores differ by {difference:.2g} from the network's own (limit"
                f" {_LIMIT:g}); the network cannot be exported"
            )
        contract = Contract(
            name=name,
            preprocess=spec,
            labels=tuple(labels),
            top_k=top_k,
            embedding_size=embedding.shape[1],
            training=training,
            metrics={},
            package_version=__version__,
        )
        write_contract(partial, contract, golden)
    return read_contract(directory)


def answer_of_graph(directory: str, pixels: Pixels) -> list[Any]:
    """Class ids, scores and embeddings that a folder's graph gives for uint8 [N, H, W, 3]."""
    graph = ov.Core().read_model(os.path.join(directory, OPENVINO_FILE))
    missing = [name for name in _OUTPUTS if not any(name in p.get_names() for p in graph.outputs)]
    if missing:
        raise ModelError(f"{directory}: its graph has no output {', '.join(missing)}")
    ports = [graph.output(name).get_node().input_value(0) for name in _OUTPUTS]
    batch = graph.input(0).partial_shape[0]
    return run_graph(graph, pixels, batch.get_length() if batch.is_static else 0, ports)


def _expected(file: GraphFile, spec: PreprocessSpec, activation: str, images: Pixels) -> Any:
    """float32 [N, classes]: probabilities of the network itself, computed beside it."""
    answers: Any = file.infer(spec.normalize(images)[..., : file.channels])
    if activation == "softmax":
        answers = np.exp(answers - answers.max(1, keepdims=True))
        return answers / answers.sum(1, keepdims=True)
    if activation == "sigmoid":
        answers = 1 / (1 + np.exp(-answers))
    return np.concatenate([1 - answers, answers], 1) if file.classes == 1 else answers


def _batched(
    read: Callable[[], GraphFile], spec: PreprocessSpec, activation: str, top_k: int
) -> Any:
    """The graph for any number of images at a time, or for as many as the network was made for."""
    file = read()
    if not file.batch:
        graph = _build(file, spec, activation, top_k)
        if _takes_any(graph, spec):
            return _build(read(), spec, activation, top_k)
    return _build(dataclasses.replace(read(), batch=file.batch or 1), spec, activation, top_k)


def _takes_any(graph: Any, spec: PreprocessSpec) -> bool:
    """Whether the answers for two images at once are those for each: some graphs name a 1."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, *spec.shape)).astype(np.uint8)
    ports = [graph.output("scores").get_node().input_value(0)]
    try:
        (alone,) = run_graph(graph, pixels, 1, ports)
        (together,) = run_graph(graph, pixels, 2, ports)
    except Exception:  # OpenVINO's own, of many types
        return False
    return alone.shape == together.shape and np.allclose(alone, together, atol=_LIMIT)


def _build(file: GraphFile, spec: PreprocessSpec, activation: str, top_k: int) -> Any:
    """uint8 images before the network; probabilities, the best classes and features behind it."""
    images = ops.parameter([file.batch or -1, *spec.shape], ov.Type.u8, name="images")
    _put_before(file, images, spec)
    scores = ops.convert(file.scores, "f32")
    scores = ops.reshape(scores, np.array([-1, file.classes]), special_zero=False)
    if activation == "softmax":
        scores = ops.softmax(scores, 1)
    elif activation == "sigmoid":
        scores = ops.sigmoid(scores)
    if file.classes == 1:  # the second label's probability p: the scores are 1 - p and p
        scores = ops.concat([ops.subtract(np.float32(1), scores), scores], 1)
    best = ops.topk(scores, np.int32(top_k), 1, "max", "value", index_element_type="i32")
    port, places = file.features()
    features = ops.convert(port, "f32")
    if places:
        features = ops.reduce_mean(features, np.array(places), keep_dims=False)
    outputs = {"class_ids": best.output(1), "scores": best.output(0)}
    outputs["embedding"] = features.output(0)
    for name, output in outputs.items():
        output.get_tensor().set_names({name})
    return ov.Model([ops.result(output) for output in outputs.values()], [images], "classifier")


def _put_before(file: GraphFile, images: Any, spec: PreprocessSpec) -> None:
    """Connects uint8 [N, H, W, 3] to what the network takes."""
    pixels = ops.convert(images, "f32")
    pixels = ops.multiply(pixels, np.array(spec.scale, np.float32).reshape(1, 1, 1, -1))
    pixels = ops.add(pixels, np.array(spec.offset, np.float32).reshape(1, 1, 1, -1))
    if file.channels == 1:
        pixels = ops.gather(pixels, np.array([0]), np.array(3))
    if file.blue_first:
        pixels = ops.gather(pixels, np.array([2, 1, 0]), np.array(3))
    if file.channels_first:
        pixels = ops.transpose(pixels, np.array([0, 3, 1, 2]))
    if file.element_type != "f32":
        pixels = ops.convert(pixels, file.element_type)
    (taken,) = file.graph.get_parameters()
    for target in taken.output(0).get_target_inputs():
        target.replace_source_output(pixels.output(0))
