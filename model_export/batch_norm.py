"""Batch normalisation folded into the convolution before it, in a frozen graph.

At inference it is a multiplication and an addition per channel: `(w * x) a + b = (w a) * x + b`.
Keras leaves them as operations of their own, each a pass over all that the layer puts out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.python.eager.wrap_function import function_from_graph_def

WEIGHTS = 1  # which input of a convolution
DEPTHWISE = "DepthwiseConv2dNative"
CONVOLUTIONS = ("Conv2D", DEPTHWISE)


class _BatchNorm(NamedTuple):
    """The addition it ends in, its convolution, its factor and its shift."""

    added: tf.Operation
    convolution: tf.Operation
    factor: tf.Tensor
    shift: tf.Tensor


def fold_batch_norms(
    frozen: tf.types.experimental.ConcreteFunction,
) -> tf.types.experimental.ConcreteFunction:
    """The same function with each `AddV2(Mul(convolution, a), b)` as `BiasAdd(convolution, b)`.

    `a` and `b` are float32 [channels] that depend on no input; the convolution is channels-last
    and nothing else reads it. The answers differ in float32's rounding.

    Args:
      frozen: a `ConcreteFunction` without variables; returned as it is where there is nothing to
        fold.
    """
    graph_def = frozen.graph.as_graph_def()
    nodes = {node.name: node for node in graph_def.node}
    with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
        tf.import_graph_def(graph_def, name="")
        folds = [fold for op in graph.get_operations() if (fold := _batch_norm(op))]
        if not folds:
            return frozen
        for added, convolution, factor, shift in folds:
            tensors = [convolution.inputs[WEIGHTS], factor, shift]
            weights, factor, shift = session.run(tensors)
            channels = weights.shape[2:] if convolution.type == DEPTHWISE else (-1,)
            folded = weights.astype(np.float64) * factor.astype(np.float64).reshape(channels)
            folded_name = _constant(graph_def, f"{added.name}/folded_weights", folded)
            shift_name = _constant(graph_def, f"{added.name}/folded_shift", shift)
            nodes[convolution.name].input[WEIGHTS] = folded_name
            node = nodes[added.name]
            node.op = "BiasAdd"
            node.input[:] = [convolution.name, shift_name]
        # Freezing leaves an operation that waits for every constant: it would keep the old ones.
        for node in graph_def.node:
            node.input[:] = [name for name in node.input if not _waits_for_constant(graph, name)]
    return function_from_graph_def(
        graph_def, [tensor.name for tensor in frozen.inputs], [t.name for t in frozen.outputs]
    )


def _batch_norm(op: tf.Operation) -> _BatchNorm | None:
    """What ends in `op`, if that is a batch normalisation."""
    if op.type != "AddV2":
        return None
    scaled, shift = op.inputs
    if scaled.op.type != "Mul" or len(scaled.consumers()) > 1:
        return None
    out, factor = scaled.op.inputs
    if out.op.type not in CONVOLUTIONS or len(out.consumers()) > 1:
        return None
    shapes = [tensor.shape.as_list() for tensor in (factor, shift)]
    if out.op.get_attr("data_format") != b"NHWC" or shapes != 2 * [[out.shape[-1]]]:
        return None
    if not all(_is_constant(t.op) for t in (out.op.inputs[WEIGHTS], factor, shift)):
        return None
    return _BatchNorm(op, out.op, factor, shift)


def _is_constant(op: tf.Operation) -> bool:
    return op.type == "Const" or (bool(op.inputs) and all(_is_constant(t.op) for t in op.inputs))


def _waits_for_constant(graph: tf.Graph, name: str) -> bool:
    """Whether an input of a node is a control edge ("^name") from a constant."""
    return name.startswith("^") and _is_constant(graph.get_operation_by_name(name[1:]))


def _constant(graph_def: GraphDef, name: str, value: NDArray[np.floating[Any]]) -> str:
    """Adds a float32 constant; returns its name."""
    node = graph_def.node.add(name=name, op="Const")
    node.attr["dtype"].type = tf.float32.as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.float32(value)))
    return name
