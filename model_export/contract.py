"""The contract of an exported model: what it takes, what it answers, and proof that it still does.

A model folder is a TensorFlow SavedModel, or a graph of OpenVINO (`openvino_model.xml` and `.bin`),
with these files in `assets.extra`:

  contract.json   this contract
  labels.txt      one label per line, class id = line number from 0
  labels.json     {"0": "label", ...}, the same as a map
  golden.npz      images (uint8 [G, H, W, 3]) and the answers recorded when it was exported

Reading a contract runs nothing from the folder: JSON and plain arrays only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagecensus.model_export.common.atomic import atomic_path
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.common.quantities import counted
from imagecensus.model_export.preprocess import PreprocessSpec

CONTRACT_VERSION = 1
EXTRA = "assets.extra"
CONTRACT_FILE = "contract.json"
LABELS_FILE = "labels.txt"
LABEL_MAP_FILE = "labels.json"
GOLDEN_FILE = "golden.npz"
SAVED_MODEL_FILE = "saved_model.pb"
OPENVINO_FILE = "openvino_model.xml"
EXPORTED_TOP_K = 10  # classes per answer of an exported model

# What a model takes: [N, H, W, 3], preprocessed.
Pixels = NDArray[np.uint8]
# What it answers: class ids [N, K] and their scores [N, K], best first; embeddings [N, D].
Answers = tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]
Infer = Callable[[Pixels], Answers]

# An engine must reproduce the golden scores to this, or the model is not the one exported.
GOLDEN_TOLERANCE = 1e-4


class ModelError(UserError):
    """The model folder cannot be used. The message names the folder and the remedy."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contract:
    """What a model promises.

    Attributes:
      name: of the model, for people.
      preprocess: how bytes become pixels.
      labels: one per class id.
      top_k: how many classes the signatures answer with, best first.
      embedding_size: length of the `embed` signature's vectors.
      training: free-form provenance (data, recipe, seed, versions).
      metrics: free-form evaluation figures.
      package_version: of the imagecensus that exported it.
      digest: sha256 over the model's files, hex; see `model_digest`.
    """

    name: str
    preprocess: PreprocessSpec
    labels: tuple[str, ...]
    top_k: int
    embedding_size: int
    training: dict[str, Any]
    metrics: dict[str, Any]
    package_version: str
    digest: str = ""

    def to_json(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        del fields["labels"]  # labels.txt holds them
        return {"contract_version": CONTRACT_VERSION, **fields, "classes": len(self.labels)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Golden:
    """Recorded inputs and outputs.

    `images` uint8 [G, H, W, 3]; `class_ids` int32 [G, K]; `scores` float32 [G, K].
    """

    images: Pixels
    class_ids: NDArray[np.int32]
    scores: NDArray[np.float32]

    def check(
        self,
        class_ids: NDArray[np.int32],
        scores: NDArray[np.float32],
        who: str,
        tolerance: float = GOLDEN_TOLERANCE,
    ) -> None:
        """Raises ModelError where an engine's answers differ from the recorded ones."""
        if scores.shape != self.scores.shape:
            raise ModelError(
                f"{who}: answers of shape {scores.shape}, the contract says {self.scores.shape};"
                " export the model again"
            )
        difference = self._difference(class_ids, scores)
        if not difference <= tolerance:  # nor where it is not a number
            raise ModelError(
                f"{who}: the golden images' scores differ by {difference:.2g} from the recorded"
                f" ones (limit {tolerance:g}); the model files or the engine have changed:"
                " export the model again, or try --engine=tensorflow"
            )

    def _difference(self, class_ids: NDArray[np.int32], scores: NDArray[np.float32]) -> float:
        """The largest difference of one class's score: near ties may swap places, classes not.

        A class that is missing from a list scores at most that list's last.
        """
        if not np.isfinite(scores).all():
            return float("nan")
        largest = 0.0
        for row in range(len(scores)):
            here = dict(zip(self.class_ids[row].tolist(), self.scores[row].tolist(), strict=True))
            there = dict(zip(class_ids[row].tolist(), scores[row].tolist(), strict=True))
            for one, other in ((here, there), (there, here)):
                last = min(other.values(), default=0.0)
                for name, score in one.items():
                    nearest = other.get(name, min(score, last))
                    largest = max(largest, abs(score - nearest))
        return largest


def write_contract(directory: str, contract: Contract, golden: Golden) -> Contract:
    """Writes `assets.extra` into a SavedModel folder; returns the contract with its digest."""
    extra = os.path.join(directory, EXTRA)
    os.makedirs(extra, exist_ok=True)
    with open(os.path.join(extra, LABELS_FILE), "w", encoding="utf-8") as file:
        file.writelines(label + "\n" for label in contract.labels)
    with open(os.path.join(extra, LABEL_MAP_FILE), "w", encoding="utf-8") as file:
        json.dump({str(i): label for i, label in enumerate(contract.labels)}, file, indent=1)
    np.savez_compressed(
        os.path.join(extra, GOLDEN_FILE),
        images=golden.images,
        class_ids=golden.class_ids.astype(np.int32),
        scores=golden.scores.astype(np.float32),
    )
    contract = dataclasses.replace(contract, digest=model_digest(directory))
    with open(os.path.join(extra, CONTRACT_FILE), "w", encoding="utf-8") as file:
        json.dump(contract.to_json(), file, indent=1)
        file.write("\n")
    return contract


def add_metrics(directory: str, **metrics: Any) -> Contract:
    """Adds figures to the contract of an exported model; the digest does not cover them."""
    contract = read_contract(directory)
    contract = dataclasses.replace(contract, metrics={**contract.metrics, **metrics})
    with (
        atomic_path(os.path.join(directory, EXTRA, CONTRACT_FILE)) as path,
        open(path, "w", encoding="utf-8") as file,
    ):
        json.dump(contract.to_json(), file, indent=1)
        file.write("\n")
    return contract


def model_digest(directory: str) -> str:
    """sha256 over the names and contents of everything in the folder but contract.json."""
    digest = hashlib.sha256()
    paths = []
    for root, _, names in os.walk(directory):
        paths += [os.path.relpath(os.path.join(root, name), directory) for name in names]
    for path in sorted(paths):
        if path == os.path.join(EXTRA, CONTRACT_FILE) or path == "fingerprint.pb":
            continue
        with open(os.path.join(directory, path), "rb") as file:
            content = hashlib.sha256(file.read()).digest()
        digest.update(path.replace(os.sep, "/").encode() + b"\0" + content)
    return digest.hexdigest()


def read_contract(directory: str, verify_digest: bool = True) -> Contract:
    """Reads and checks the contract of a model folder.

    Raises:
      ModelError: no such folder, no SavedModel, no contract, labels that do not fit it, a newer
        contract version, or files that changed since the export.
    """
    path = os.path.join(directory, EXTRA, CONTRACT_FILE)
    if not os.path.isdir(directory):
        raise ModelError(f"{directory}: no such model folder")
    if not _holds_model(directory):
        raise ModelError(
            f"{directory}: holds neither {SAVED_MODEL_FILE} nor {OPENVINO_FILE}; is this a model"
            " folder?"
        )
    try:
        with open(path, encoding="utf-8") as file:
            fields = json.load(file)
        with open(os.path.join(directory, EXTRA, LABELS_FILE), encoding="utf-8") as file:
            labels = tuple(file.read().removesuffix("\n").split("\n"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{error.filename}: missing; only models exported by imagecensus can be used"
            " (make one with `imagecensus train` or `imagecensus export`)"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from None
    try:
        version = fields.pop("contract_version")
        if version > CONTRACT_VERSION:
            raise ModelError(
                f"{path}: contract version {version}, this imagecensus reads up to"
                f" {CONTRACT_VERSION}; update imagecensus"
            )
        classes = fields.pop("classes")
        spec = PreprocessSpec.from_json(fields.pop("preprocess"))
        contract = Contract(preprocess=spec, labels=labels, **fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{path}: not a valid contract: {error}") from None
    if len(labels) != classes:
        raise ModelError(
            f"{directory}: labels.txt has {counted(len(labels), 'label')}, the model"
            f" {counted(classes, 'class', 'classes')}"
        )
    if verify_digest and model_digest(directory) != contract.digest:
        raise ModelError(
            f"{directory}: its files changed since the export (digest differs from contract.json);"
            " copy or export it again"
        )
    return contract


def has_saved_model(directory: str) -> bool:
    """Whether TensorFlow can read a model folder; where it cannot, only OpenVINO can."""
    return os.path.isfile(os.path.join(directory, SAVED_MODEL_FILE))


def openvino_source(directory: str) -> str:
    """What OpenVINO reads of a model folder: the folder, or its graph."""
    return directory if has_saved_model(directory) else os.path.join(directory, OPENVINO_FILE)


def _holds_model(directory: str) -> bool:
    return has_saved_model(directory) or os.path.isfile(os.path.join(directory, OPENVINO_FILE))


def check_target(directory: str) -> None:
    """Raises ModelError where an export would replace something that is no model."""
    if os.path.isdir(directory):
        occupied = os.listdir(directory)
        if not occupied or _holds_model(directory):
            return
    elif not os.path.exists(directory):
        return
    raise ModelError(f"{directory}: exists and is no model folder; choose another")


def check_digest(contract: Contract, expected: str, directory: str) -> None:
    """Raises ModelError where the model's digest does not start with `expected`."""
    if expected and not contract.digest.startswith(expected.lower().removeprefix("sha256:")):
        raise ModelError(
            f"{directory}: its digest is {contract.digest}, not {expected}; get the right model, or"
            " change --model-digest"
        )


def read_golden(directory: str) -> Golden:
    """The recorded inputs and outputs of a model folder. Raises ModelError."""
    path = os.path.join(directory, EXTRA, GOLDEN_FILE)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            golden = Golden(
                images=arrays["images"], class_ids=arrays["class_ids"], scores=arrays["scores"]
            )
    except Exception as error:  # a damaged zip raises a dozen types; nothing is unpickled
        raise ModelError(f"{path}: cannot be read: {error}; export the model again") from None
    ranks = (golden.images.ndim, golden.class_ids.ndim, golden.scores.ndim)
    if golden.images.dtype != np.uint8 or ranks != (4, 2, 2):
        raise ModelError(f"{path}: not golden images and answers; export the model again")
    return golden
