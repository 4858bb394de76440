"""`imagecensus predict`: the answers of a model for a few images, at once.

The same decoding, the same engines and the same columns as the batch job, without Beam: what
`predict` says of an image is what its row of the table says.
"""

from __future__ import annotations

if __name__ == "__main__":  # first: help needs nothing of what follows
    from imagecensus.jobs.cli import command

    command("predict")

import dataclasses
import json
import os
import sys
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from imagecensus.jobs.options.predict import STDIN, PredictOptions
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.contract import read_contract
from imagecensus.model_export.default_model import default_model
from imagecensus.model_export.image_formats import ImageError
from imagecensus.model_export.safety import check_graph
from imagecensus.transforms.decoders.decode_batch import DecodingConfig, Pending, Pools
from imagecensus.transforms.decoders.lease import lease
from imagecensus.transforms.decoders.look_into import read_reference
from imagecensus.transforms.engines.classify_batch import (
    ClassificationConfig,
    classify_batch,
    load_classifier,
)
from imagecensus.transforms.engines.registry import choose_engine, match_engine
from imagecensus.transforms.image_ref import MAX_BYTES, ImageRef
from imagecensus.transforms.inputs.locate import resolve
from imagecensus.transforms.inputs.packed_members import PackedMembers, split_member
from imagecensus.transforms.read_images import read_image
from imagecensus.transforms.records import FACTS, GPS_FACTS, REF_SCHEMA, ImageBatch, Unit
from imagecensus.transforms.storage import store
from imagecensus.transforms.storage.copies import local_folder

_BATCH = 32
_BAR = 20
_NO_UNIT = Unit(name="predict", plan="", row_group=0, rows=0)

NamedBytes = tuple[str, bytes | ImageError]  # the file, or why there is none


def main(options: PredictOptions) -> int:
    """Returns 1 where an image failed."""
    predictor = Predictor(
        model_folder(options.model, options.weights),
        options.engine,
        options.top_k,
        options.trust_model,
        gps=options.gps,
    )
    failed = False
    images = (read_stdin() if image == STDIN else image for image in options.images)
    for row in predictor.predict(images):
        failed |= row["status"] != "ok"
        print(json.dumps(row) if options.json else describe(row))
    return int(failed)


class Predictor:
    """A model, loaded and ready to answer for a few images.

    Attributes:
      contract: of the model.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        engine: str = "auto",
        top_k: int = 5,
        trust: bool = False,
        *,
        gps: bool = False,
    ) -> None:
        """Args:
          model: model folder, here or in a store; None: MobileNet-V2 trained on ImageNet.
          engine: auto, openvino or tensorflow.
          top_k: best classes of each answer.
          trust: also take a model whose graph may touch files or the network.
          gps: also tell where images were taken, where they say so.

        Raises:
          UserError: no such model, one not to be trusted, an engine that is not here.
        """
        if top_k < 1:
            raise UserError("top_k must be at least 1")
        model = model_folder(None if model is None else os.fspath(model))
        self.contract = read_contract(model)
        if not trust:
            check_graph(model)
        if top_k > self.contract.top_k and self.contract.top_k < len(self.contract.labels):
            raise UserError(
                f"--top-k={top_k}: {model} answers with {self.contract.top_k} classes;"
                " export it again with a larger top-k"
            )
        facts = (*FACTS, *GPS_FACTS) if gps else FACTS
        self._decoding = DecodingConfig(spec=self.contract.preprocess, facts=facts)
        self._pools = Pools(self._decoding)  # they start while the model is loaded
        weakref.finalize(self, self._pools.close)
        chosen = match_engine(choose_engine(engine), engine, model)
        self._config = ClassificationConfig(
            model=model, engine=chosen, top_k=min(top_k, len(self.contract.labels))
        )
        self._model = load_classifier(self._config)

    def predict(
        self,
        images: Iterable[str | os.PathLike[str] | NamedBytes],
        embeddings: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """Rows with the columns of the table, in order.

        Args:
          images: locations, or pairs of a name and the file's bytes (or why there are none, as an
            ImageError).
          embeddings: adds `embedding`, float32 [D]; None where the image failed.

        Raises:
          TypeError: something else than these is among them.
        """
        batch: list[NamedBytes] = []
        for image in images:
            batch.append(_named_bytes(image))
            if len(batch) == _BATCH:
                yield from self._predict_batch(batch, embeddings)
                batch = []
        if batch:
            yield from self._predict_batch(batch, embeddings)

    def _predict_batch(self, images: list[NamedBytes], embeddings: bool) -> list[dict[str, Any]]:
        names, files = zip(*images, strict=True)
        refs = pa.RecordBatch.from_pydict(
            {
                "uri": [name.encode(errors="replace").decode() for name in names],
                "size": [-1] * len(names), "etag_or_mtime": [""] * len(names),
                "container": [None] * len(names), "member": [None] * len(names),
            },
            REF_SCHEMA,
        )  # fmt: skip
        shape, facts = self.contract.preprocess.shape, self._decoding.facts
        batch = ImageBatch.of(_NO_UNIT, refs, shape, facts=facts)
        batch = Pending(batch, self._decoding, self._pools, files).result()
        config = dataclasses.replace(self._config, embeddings=embeddings)
        rows = classify_batch(
            batch, self._model.engine, self._model.labels, config, self._model.embedding_size
        ).rows
        vectors = rows.column("embedding") if embeddings else None
        without = {"etag_or_mtime", "embedding"}.intersection(rows.schema.names)
        answers: list[dict[str, Any]] = rows.drop_columns([*without]).to_pylist()
        for place, row in enumerate(answers):
            row["uri"] = names[place]
            if vectors is not None:
                found = row["label"] is not None
                row["embedding"] = vectors[place].values.to_numpy() if found else None
        return answers


def describe(row: dict[str, Any]) -> str:
    """A row for people, over several lines."""
    lines = [printable(row["uri"])]
    if row["status"] != "ok":
        lines.append(f"  {row['status']}: {printable(row['error'])}")
    for answer in row["top_k"] or ():
        bar = "█" * round(answer["score"] * _BAR)
        lines.append(f"  {answer['score']:.4f}  {bar:<{_BAR}}  {printable(answer['label'])}")
    return "\n".join(lines)


def printable(text: str) -> str:
    """Text that a terminal cannot take for a command: control characters are written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _named_bytes(image: object) -> NamedBytes:
    """What `Predictor.predict` was given of an image, as a name and bytes."""
    if isinstance(image, str | os.PathLike):
        return read_one_image(os.fspath(image))
    match image:
        case (str() as name, bytes() | ImageError() as data):
            return name, data
        case (str() as name, bytearray() | memoryview() as data):
            return name, bytes(data)
    raise TypeError(
        f"{type(image).__name__}: an image is given by its location (str), or by a pair of its"
        " name and the file's bytes"
    )


def read_stdin() -> NamedBytes:
    """The image on standard input."""
    return STDIN, sys.stdin.buffer.read(MAX_BYTES)


def read_one_image(image: str) -> NamedBytes:
    """(uri as the table writes it, bytes or the ImageError that came instead).

    An image is named by a path, by an address of a store, or as the table does: a `file://` uri, or
    ARCHIVE#MEMBER.
    """
    name = image
    try:
        packed = split_member(image, "")
        if packed is None:
            uri = resolve(image, "")
            # A signed address is read as it is, and shown without its secret, also where it fails.
            name = uri if store.is_web(image) else image
            return uri, read_image(ImageRef(uri=image if store.is_web(image) else uri))
        with lease():
            found = PackedMembers().find(packed.container, [packed.uri]).get(packed.uri)
            if found is None:
                return packed.uri, ImageError("not_found", "the archive has no such member")
            return packed.uri, read_reference(found.ref, MAX_BYTES)
    except OSError as error:
        return name, ImageError("read_error", error.strerror or str(error))
    except ImageError as error:
        if error.status == "not_found" and not split_member(image, ""):
            error = ImageError("not_found", "there is no such file")
        return name, error


def model_folder(model: str | None, weights: str | None = None) -> str:
    """The folder of a model, here or in a store; without one, of the default model."""
    return local_folder(model) if model else default_model(weights)
