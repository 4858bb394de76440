"""Proof that an exported model is the model that was trained, and that it still is.

`check_model` looks at a model folder as it lies there; `imagecensus doctor` calls it.
`compare_in_fresh_process` is the trainer's proof: another process, which never saw the Keras
model, loads the folder and answers for real images.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imagecensus.model_export.common.child_process import (
    WORKING_FOLDER,
    child_command,
    child_environment,
)
from imagecensus.model_export.common.quantities import counted
from imagecensus.model_export.contract import (
    Golden,
    ModelError,
    Pixels,
    has_saved_model,
    read_contract,
    read_golden,
)

if TYPE_CHECKING:  # loading it takes seconds
    import tensorflow as tf

# Limits of the trainer's proof. Between the two signatures lies another JPEG decoder's rounding.
DEFAULT_LIMIT = 1e-5
BYTES_MEAN_LIMIT = 0.05
BYTES_AGREEMENT = 0.95

_SIGNATURES = {
    "serving_default": (
        {"images": "uint8"},
        {"class_ids": "int32", "scores": "float32", "embedding": "float32"},
    ),
    "serving_bytes": (
        {"image_bytes": "string"},
        {"class_ids": "int32", "scores": "float32", "labels": "string"},
    ),
    "embed": ({"images": "uint8"}, {"embedding": "float32"}),
}


class Finding(NamedTuple):
    """One thing looked at: what, whether it is in order, and the details in a sentence."""

    check: str
    ok: bool
    detail: str


def check_model(directory: str) -> list[Finding]:
    """Looks at everything a model folder promises.

    Returns:
      One finding per check; the first that fails for lack of a model is the last.
    """
    try:
        contract = read_contract(directory)
        golden = read_golden(directory)
    except ModelError as error:
        return [Finding("contract", False, str(error))]
    findings = [
        Finding(
            "contract",
            True,
            f"{contract.name}: {counted(len(contract.labels), 'class', 'classes')},"
            f" {contract.preprocess.height}x{contract.preprocess.width},"
            f" digest {contract.digest[:12]}",
        )
    ]
    if not has_saved_model(directory):
        return [*findings, _graph_finding(directory, golden)]
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(directory)
    except Exception as error:
        return [*findings, Finding("load", False, f"{directory}: TensorFlow: {error}")]
    wrong = _signature_problems(loaded.signatures)
    findings.append(Finding("signatures", not wrong, "; ".join(wrong) or ", ".join(_SIGNATURES)))
    if wrong:
        return findings
    variables = [
        op.name
        for signature in loaded.signatures.values()
        for op in signature.graph.get_operations()
        if op.type == "VarHandleOp"
    ] + list(getattr(loaded, "variables", []))
    findings.append(
        Finding(
            "frozen", not variables, f"{counted(len(variables), 'variable')} outside of the graph"
        )
    )
    answers = loaded.signatures["serving_default"](images=tf.constant(golden.images))
    findings.append(_golden_finding(golden, answers, "golden images"))
    encoded = tf.constant([encode_png(drawn) for drawn in golden.images])
    from_bytes = loaded.signatures["serving_bytes"](image_bytes=encoded)
    findings.append(_golden_finding(golden, from_bytes, "golden images as PNG bytes"))
    named = [[contract.labels[i] for i in row] for row in from_bytes["class_ids"].numpy()]
    returned = [[text.decode() for text in row] for row in from_bytes["labels"].numpy()]
    findings.append(Finding("labels", named == returned, "in the graph as in labels.txt"))
    embedding = loaded.signatures["embed"](images=tf.constant(golden.images))["embedding"]
    same = np.allclose(embedding, answers["embedding"], atol=1e-5)
    fits = embedding.shape[1] == contract.embedding_size
    findings.append(
        Finding("embed", same and fits, f"{counted(embedding.shape[1], 'number')} per image")
    )
    return findings


def _graph_finding(directory: str, golden: Golden) -> Finding:
    # Imported here: trainers' processes, which use TensorFlow, never load OpenVINO.
    from imagecensus.model_export.export_graph import answer_of_graph

    try:
        class_ids, scores, _ = answer_of_graph(directory, golden.images)
        golden.check(class_ids, scores, "golden images")
    except Exception as error:  # OpenVINO's own, of many types
        return Finding("golden images", False, f"{directory}: {error}")
    difference = float(np.abs(scores - golden.scores).max(initial=0))
    return Finding("golden images", True, f"largest difference {difference:.1e}")


def _signature_problems(
    signatures: Mapping[str, tf.types.experimental.ConcreteFunction],
) -> list[str]:
    problems = []
    for name, (inputs, outputs) in _SIGNATURES.items():
        if name not in signatures:
            problems.append(f"no signature {name}")
            continue
        signature = signatures[name]
        took = {k: v.dtype.name for k, v in signature.structured_input_signature[1].items()}
        gave = {k: v.dtype.name for k, v in signature.structured_outputs.items()}
        for kind, has, wanted in (("takes", took, inputs), ("answers", gave, outputs)):
            if has != wanted:
                problems.append(f"{name} {kind} {has}, expected {wanted}")
    return problems


def _golden_finding(golden: Golden, answers: Mapping[str, tf.Tensor], what: str) -> Finding:
    try:
        golden.check(answers["class_ids"].numpy(), answers["scores"].numpy(), what)
    except ModelError as error:
        return Finding(what, False, str(error))
    difference = float(np.abs(answers["scores"].numpy() - golden.scores).max(initial=0))
    return Finding(what, True, f"largest difference {difference:.1e}")


def encode_png(drawn: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(drawn).save(buffer, "PNG")
    return buffer.getvalue()


def readable_in_graph(content: bytes) -> bool:
    """Whether `serving_bytes` sees a file as `decode_image` does: TensorFlow reads it, upright."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            upright = image.getexif().get(0x0112, 1) in (0, 1)
            return (
                upright
                and image.format in ("JPEG", "PNG", "BMP")
                and image.mode in ("L", "RGB", "RGBA")
            )
    except Exception:
        return False


def compare_in_fresh_process(
    directory: str,
    pixels: Pixels,
    encoded: list[bytes],
    probabilities: NDArray[np.float32],
    embedding: NDArray[np.float32],
) -> dict[str, Any]:
    """What another process gets from the exported model, against the trained Keras model.

    Args:
      directory: the model folder.
      pixels: uint8 [N, H, W, 3], real images as `decode_image` gave them.
      encoded: their N files.
      probabilities: float32 [N, classes], the trained model's.
      embedding: float32 [N, D], the trained model's.

    Returns:
      images; the largest difference of `serving_default` scores and of `embed`; for
      `serving_bytes` the largest and mean difference of the best score to `serving_default`, and
      the share of images with the same best class.

    Raises:
      ModelError: a difference over its limit; the model must not be used.
    """
    with tempfile.TemporaryDirectory() as folder:
        case = os.path.join(folder, "case.npz")
        np.savez(
            case,
            pixels=pixels,
            probabilities=probabilities,
            embedding=embedding,
            encoded=np.frombuffer(b"".join(encoded), np.uint8),
            lengths=np.asarray([len(data) for data in encoded]),
        )
        done = subprocess.run(
            child_command("imagecensus.model_export.verify", os.path.abspath(directory), case),
            env=child_environment(CUDA_VISIBLE_DEVICES=""),
            cwd=WORKING_FOLDER,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise ModelError(
            f"{directory}: a fresh process cannot use the exported model:"
            f" {done.stderr.strip()[-500:]}"
        )
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    problems = []
    for name in ("serving_default", "embed"):
        if figures[name] > DEFAULT_LIMIT:
            problems.append(f"{name} differs by {figures[name]:.2g} (limit {DEFAULT_LIMIT:g})")
    from_bytes = figures["serving_bytes"]
    if from_bytes["mean"] > BYTES_MEAN_LIMIT or from_bytes["same_class"] < BYTES_AGREEMENT:
        problems.append(
            f"serving_bytes differs by {from_bytes['mean']:.2g} on average (limit"
            f" {BYTES_MEAN_LIMIT}), same class for {from_bytes['same_class']:.1%}"
        )
    if problems:
        raise ModelError(f"{directory}: is not the model that was trained: {'; '.join(problems)}")
    return figures


def _compare(directory: str, case: str) -> dict[str, Any]:
    import tensorflow as tf

    with np.load(case, allow_pickle=False) as arrays:
        pixels, probabilities = arrays["pixels"], arrays["probabilities"]
        embedding, lengths = arrays["embedding"], arrays["lengths"]
        joined = arrays["encoded"].tobytes()
    ends = np.cumsum(lengths)
    encoded = [joined[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    read_contract(directory)
    signatures = tf.saved_model.load(directory).signatures
    default = signatures["serving_default"](images=tf.constant(pixels))
    ids, scores = default["class_ids"].numpy(), default["scores"].numpy()
    vectors = signatures["embed"](images=tf.constant(pixels))["embedding"].numpy()
    from_bytes = signatures["serving_bytes"](image_bytes=tf.constant(encoded))
    best = from_bytes["scores"].numpy()[:, 0] - scores[:, 0]
    same = from_bytes["class_ids"].numpy()[:, 0] == ids[:, 0]
    return {
        "images": len(pixels),
        "serving_default": float(
            np.abs(scores - np.take_along_axis(probabilities, ids, axis=1)).max()
        ),
        # Features have no fixed range: the difference is relative to their largest value.
        "embed": float(np.abs(vectors - embedding).max() / max(1.0, np.abs(embedding).max())),
        "serving_bytes": {
            "largest": float(np.abs(best).max()),
            "mean": float(np.abs(best).mean()),
            "same_class": float(same.mean()),
        },
    }


if __name__ == "__main__":
    print(json.dumps(_compare(*sys.argv[1:])))
