"""Models are code: lets a SavedModel pass whose graph only computes, and refuses any other.

`saved_model.pb` is parsed with only the few message fields that name operations, so neither
TensorFlow nor the graph itself runs. Engines execute what this lets through and nothing else from
the folder: no Python, no pickle, no custom op libraries.
"""

from __future__ import annotations

import functools
import os
import pathlib
import re
from typing import Any

from imagecensus.model_export.contract import SAVED_MODEL_FILE, ModelError, openvino_source

# One name or more a line; a comment begins with a hash.
_LINES = pathlib.Path(__file__).with_name("safe_operations.txt").read_text("utf-8").splitlines()
ALLOWED = frozenset(" ".join(line for line in _LINES if not line.startswith("#")).split())
# A node may also call a function of the graph, all of which are looked at, by its name; one that is
# called like an operation could be mistaken for it.
_FUNCTION = re.compile(r"__(inference|forward|backward)_.*", re.DOTALL)
# Every SavedModel carries functions that save and restore its variables. They may use these, if
# nothing that a signature or the loading of the model runs leads to them.
_CHECKPOINT = re.compile(r"(Save|Restore)(V2|Slices?)?|MergeV2Checkpoints|ShardedFilename")
_CHECKPOINT_FUNCTION = re.compile(r"__inference__traced_(save|restore)_\d+")


def check_graph(directory: str) -> None:
    """Looks at every operation of the SavedModel in a folder.

    A folder with an OpenVINO graph alone passes: OpenVINO has no operation that touches files, the
    network or Python, and refuses what it does not know.

    Raises:
      ModelError: it has operations that are not known to only compute; or it is no SavedModel.
    """
    if os.path.isdir(directory) and openvino_source(directory) != directory:
        return
    from google.protobuf import message

    path = os.path.join(directory, SAVED_MODEL_FILE)
    model = _saved_model()()
    try:
        with open(path, "rb") as file:
            model.ParseFromString(file.read())
    except (OSError, message.DecodeError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from None
    found = set()
    for graph in model.meta_graphs:
        found |= _forbidden_in(graph)
    if found:
        raise ModelError(
            f"{directory}: its graph has operations that may touch files, the network or Python"
            f" ({_named(found)}); use it only if you trust who made it: --trust-model"
        )


def _named(found: set[str]) -> str:
    shown = sorted(op[:60] for op in found)[:10]
    return ", ".join(shown) + (f" and {len(found) - 10} more" if len(found) > 10 else "")


def _forbidden_in(graph: Any) -> set[str]:
    functions = {function.signature.name: function for function in graph.graph_def.library.function}
    found, checkpoint_users, called = set(), set(), set()

    def allowed(op: str) -> bool:
        return op in ALLOWED or (op in functions and bool(_FUNCTION.fullmatch(op)))

    for name, function in functions.items():
        for node in function.node_def:
            if _CHECKPOINT.fullmatch(node.op) and _CHECKPOINT_FUNCTION.fullmatch(name):
                checkpoint_users.add(name)
            elif not allowed(node.op):
                found.add(node.op)
            called.update(_calls(node))
    nodes = {node.name: node for node in graph.graph_def.node}
    for node in nodes.values():
        if not allowed(node.op):
            found.add(node.op)
    # What the signatures (one of them runs when the model is loaded) lead to at the top level.
    outputs = [out.value.name for sig in graph.signature_def for out in sig.value.outputs]
    pending, seen = [_node_of(name) for name in outputs], set()
    while pending:
        name = pending.pop()
        if name in nodes and name not in seen:
            seen.add(name)
            called.update(_calls(nodes[name]))
            pending += [_node_of(source) for source in nodes[name].input]
    for name in checkpoint_users & called:
        found |= {n.op for n in functions[name].node_def if _CHECKPOINT.fullmatch(n.op)}
    return found


def _node_of(tensor: str) -> str:
    """'name' of 'name', 'name:0' and '^name'."""
    return tensor.lstrip("^").split(":")[0]


def _calls(node: Any) -> list[str]:
    """The functions a node may call: they are named in its attributes."""
    names = [node.op]  # a function may be called by its name as an operation
    for attribute in node.attr:
        names.append(attribute.value.func.name)
        names += [function.name for function in attribute.value.list.func]
    return names


# message: {field: (number, type, repeated)}; a subset of TensorFlow's public definitions.
_MESSAGES: dict[str, dict[str, tuple[int, str | type[str], bool]]] = {
    "SavedModel": {"meta_graphs": (2, "MetaGraph", True)},
    "MetaGraph": {"graph_def": (2, "Graph", False), "signature_def": (5, "Signatures", True)},
    "Signatures": {"key": (1, str, False), "value": (2, "Signature", False)},
    "Signature": {"outputs": (2, "Outputs", True)},
    "Outputs": {"key": (1, str, False), "value": (2, "Tensor", False)},
    "Tensor": {"name": (1, str, False)},
    "Graph": {"node": (1, "Node", True), "library": (2, "Library", False)},
    "Library": {"function": (1, "Function", True)},
    "Function": {"signature": (1, "Tensor", False), "node_def": (3, "Node", True)},
    "Node": {
        "name": (1, str, False),
        "op": (2, str, False),
        "input": (3, str, True),
        "attr": (5, "Attributes", True),
    },
    "Attributes": {"key": (1, str, False), "value": (2, "Attribute", False)},
    "Attribute": {"list": (1, "Functions", False), "func": (10, "Tensor", False)},
    "Functions": {"func": (9, "Tensor", True)},
}


@functools.cache
def _saved_model() -> Any:
    """The message class of a SavedModel, reduced to what is looked at: `_MESSAGES`."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    package = "imagecensus.safety"
    file = descriptor_pb2.FileDescriptorProto(
        name="imagecensus/safety.proto", package=package, syntax="proto3"
    )
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, fields in _MESSAGES.items():
        described = file.message_type.add(name=name)
        for field, (number, kind, repeated) in fields.items():
            entry = described.field.add(name=field, number=number)
            entry.label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            if kind is str:
                entry.type = kinds.TYPE_STRING
            else:
                entry.type, entry.type_name = kinds.TYPE_MESSAGE, f".{package}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.SavedModel"))
