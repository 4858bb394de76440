"""Graphs that touch files are refused; what the export writes is not."""

import pytest

from imagecensus.model_export.contract import ModelError
from imagecensus.model_export.safety import ALLOWED, check_graph

# Each makes a real SavedModel with TensorFlow.
MAKE = """
import tensorflow as tf

pixels = tf.TensorSpec([None, 4, 4, 3], tf.uint8, name="images")

class Model(tf.Module):
    def __init__(self, body):
        self.variable = tf.Variable([1.0])
        self.serve = tf.function(body, input_signature=[pixels])

def save(name, body):
    model = Model(body)
    tf.saved_model.save(model, f"{folder}/{name}", signatures=model.serve)

def scores(images):
    return tf.reduce_mean(tf.cast(images, tf.float32), [1, 2])

def reads(images):
    return {"scores": scores(images), "stolen": tf.io.read_file("/etc/hostname")}

def writes(images):
    with tf.control_dependencies([tf.io.write_file("/tmp/never", "x")]):
        return {"scores": scores(images)}

def nested(images):
    return {"scores": tf.map_fn(lambda i: tf.strings.length(tf.io.read_file("/etc/hostname")),
            images, fn_output_signature=tf.int32)}

def python(images):
    return {"scores": tf.py_function(lambda x: x, [scores(images)], tf.float32)}

def restores(images):
    return {"scores": tf.raw_ops.RestoreV2(prefix="/x", tensor_names=["a"],
            shape_and_slices=[""], dtypes=[tf.float32])[0]}

def prints(images):
    tf.print("x", output_stream="file:///tmp/never")
    return {"scores": scores(images)}

for name, body in [("plain", lambda images: {"scores": scores(images)}), ("reads", reads),
                   ("writes", writes), ("nested", nested), ("python", python),
                   ("restores", restores), ("prints", prints)]:
    save(name, body)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs")
    exec(MAKE, {"folder": str(folder)})
    return folder


def test_what_the_export_writes_passes(tiny_model, models):
    check_graph(tiny_model)
    check_graph(str(models / "plain"))


@pytest.mark.parametrize(
    "name, operation",
    [
        ("reads", "ReadFile"),
        ("writes", "WriteFile"),
        ("nested", "ReadFile"),
        ("python", "EagerPyFunc"),
        ("restores", "RestoreV2"),
        ("prints", "PrintV2"),
    ],
)
def test_graphs_that_touch_files_or_python_are_refused(models, name, operation):
    with pytest.raises(ModelError, match=operation) as error:
        check_graph(str(models / name))
    assert "--trust-model" in str(error.value)


def test_bytes_that_are_no_graph_are_refused(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"\xff\xff no graph")
    with pytest.raises(ModelError, match="cannot be read"):
        check_graph(str(tmp_path))


def test_allowed_operations_are_known_and_keep_no_state_but_variables_and_tables():
    from tensorflow.python.framework import op_def_registry

    known = {name: op_def_registry.get(name) for name in ALLOWED}
    assert [name for name, definition in known.items() if definition is None] == []
    stateful = {name for name, definition in known.items() if definition.is_stateful}
    assert stateful == {
        "Assert", "AssignVariableOp", "Case", "DisableCopyOnRead", "HashTableV2", "If",
        "LookupTableFindV2", "LookupTableImportV2", "LookupTableSizeV2", "CheckNumerics",
        "ReadVariableOp", "ResourceGather", "StatefulPartitionedCall", "VarHandleOp",
        "VarIsInitializedOp", "While",
    }  # fmt: skip
    words = ("File", "Dataset", "PyFunc", "Custom", "Send", "Recv", "Summary", "Print", "Restore")
    assert not [name for name in ALLOWED if any(word in name for word in words)]


def test_what_is_not_known_is_refused(models, tmp_path):
    content = (models / "plain" / "saved_model.pb").read_bytes()
    assert content.count(b"\x04Mean") >= 1
    for other in (b"\x04Nope", b"\x04Save"):
        (tmp_path / "saved_model.pb").write_bytes(content.replace(b"\x04Mean", other))
        with pytest.raises(ModelError, match=other[1:].decode()):
            check_graph(str(tmp_path))
