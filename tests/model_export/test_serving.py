"""The model as TensorFlow Serving meets it: a session, the tag `serve`, names and dtypes.

The server itself does not come as a Python package, so that it is not run here; its client's own
messages are, against what the server answers them from.
"""

import pytest
import tensorflow as tf
from samples import photo

from imagecensus.model_export.contract import read_contract, read_golden
from imagecensus.model_export.verify import encode_png


@pytest.fixture(scope="module")
def served(tiny_model):
    """A function from a PredictRequest to a PredictResponse, as the server computes it."""
    predict_pb2 = pytest.importorskip("tensorflow_serving.apis.predict_pb2")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        bundle = tf.compat.v1.saved_model.load(session, ["serve"], tiny_model)

        def predict(content: bytes) -> bytes:
            request = predict_pb2.PredictRequest.FromString(content)
            name = request.model_spec.signature_name or "serving_default"
            signature = bundle.signature_def[name]
            assert signature.method_name == "tensorflow/serving/predict"
            assert set(request.inputs) == set(signature.inputs)
            feed = {}
            for alias, tensor in request.inputs.items():
                info = signature.inputs[alias]
                assert tensor.dtype == info.dtype, alias
                shape = tf.TensorShape(info.tensor_shape)
                assert shape.is_compatible_with(tf.TensorShape(tensor.tensor_shape)), alias
                feed[info.name] = tf.make_ndarray(tensor)
            fetch = {alias: info.name for alias, info in signature.outputs.items()}
            response = predict_pb2.PredictResponse()
            for alias, value in session.run(fetch, feed).items():
                tensor = tf.make_tensor_proto(value)
                assert tensor.dtype == signature.outputs[alias].dtype, alias
                response.outputs[alias].CopyFrom(tensor)
            return response.SerializeToString()

        def ask(signature: str, **inputs) -> dict:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = "photos"
            request.model_spec.signature_name = signature
            for alias, value in inputs.items():
                request.inputs[alias].CopyFrom(tf.make_tensor_proto(value))
            response = predict_pb2.PredictResponse.FromString(predict(request.SerializeToString()))
            return {alias: tf.make_ndarray(tensor) for alias, tensor in response.outputs.items()}

        yield ask


@pytest.mark.parametrize("signature", ["", "serving_default"])
def test_pixels_are_answered_with_the_golden_answers(served, tiny_model, signature):
    golden = read_golden(tiny_model)
    answers = served(signature, images=golden.images)
    assert set(answers) == {"class_ids", "scores", "embedding"}
    golden.check(answers["class_ids"], answers["scores"], "through a session")
    assert answers["class_ids"].dtype == "int32" and answers["scores"].dtype == "float32"
    assert (served("embed", images=golden.images)["embedding"] == answers["embedding"]).all()


def test_files_are_answered_with_labels(served, tiny_model, tmp_path):
    golden, labels = read_golden(tiny_model), read_contract(tiny_model).labels
    photo(1).save(tmp_path / "a.jpg")
    files = [encode_png(image) for image in golden.images]
    answers = served("serving_bytes", image_bytes=[*files, (tmp_path / "a.jpg").read_bytes()])
    count = len(files)
    golden.check(answers["class_ids"][:count], answers["scores"][:count], "PNG through a session")
    named = [[labels[i] for i in row] for row in answers["class_ids"]]
    assert [[name.decode() for name in row] for row in answers["labels"]] == named
