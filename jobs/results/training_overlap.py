"""Which evaluated images the model was trained on: they make an evaluation better than it is.

A model that `imagecensus train` made knows its training images by salted hashes. The table has the
hash of each file; of a table from before, files of a training image's size are read again, of more
than `MOST_READ` such a random sample.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa

from imagecensus.jobs.results.open_table import Table, read_json
from imagecensus.jobs.results.thumbnails import Images
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.common.quantities import counted
from imagecensus.model_export.contract import CONTRACT_FILE, EXTRA
from imagecensus.model_export.image_formats import ImageError
from imagecensus.model_export.trained_images import (
    TRAINED_IMAGES_FILE,
    TrainedImages,
    hash_content,
    parse_trained_images,
)
from imagecensus.transforms.storage import store

MOST_READ = 50_000
EXAMPLES = 5
_THREADS = 16
_SEED = 0
_UNREADABLE = "unreadable"


def measure_overlap(table: Table, model: str = "") -> dict[str, Any]:
    """Looks for training images among the judged rows of a table.

    Args:
      table: with the view `judged`.
      model: the model's folder; "": where the run's report says that it was.

    Returns:
      For JSON: `known` (False: the model does not know its images, then `why`, "" where it was not
      trained here, and no figures), `train` and `val` (images that are in these splits),
      `same_size` (candidates), `compared` (of those), `unreadable`, `accuracy_without` (of the rows
      that are no training images, None where there are none) and `examples`. Where that is a
      sample, the counts are of the sample and the accuracy is an estimate.

    Raises:
      UserError: `model` was named and is not the table's, or its hashes are damaged.
    """
    trained, why = _trained_images(table, model)
    if trained is None:
        return {"known": False, "why": why, "examples": []}
    _find_candidates(table, trained)
    [(same_size, unhashed, right)] = table.query(
        "SELECT count(*), count(*) FILTER (xxh128 IS NULL), count(*) FILTER (correct)"
        " FROM candidates"
    )
    hashed = table.query("SELECT uri, correct, xxh128, size FROM candidates WHERE xxh128 NOTNULL")
    found = [(uri, correct, trained.find(*known), 1.0) for uri, correct, *known in hashed]
    found += _read_again(table, trained, unhashed)
    known = [(uri, split) for uri, _, split, _ in found if split in ("train", "val")]
    # Each row stands for `weight` candidates: those that were not drawn are like those that were.
    others = sum(weight for _, _, split, weight in found if not split or split == _UNREADABLE)
    others_right = sum(
        weight * correct for _, correct, split, weight in found if not split or split == _UNREADABLE
    )
    [(judged, all_right)] = table.query(
        "SELECT count(*), count(*) FILTER (truth = label) FROM judged"
        " WHERE status = 'ok' AND truth IS NOT NULL"
    )
    rest = judged - same_size + others
    return {
        "known": True,
        "train": sum(split == "train" for _, split in known),
        "val": sum(split == "val" for _, split in known),
        "same_size": same_size,
        "compared": len(found),
        "unreadable": sum(split == _UNREADABLE for _, _, split, _ in found),
        "accuracy_without": (all_right - right + others_right) / rest if rest else None,
        "examples": sorted(uri for uri, _ in known)[:EXAMPLES],
    }


def _find_candidates(table: Table, trained: TrainedImages) -> None:
    """Makes the table `candidates` of the judged rows whose files have a training image's size."""
    table.connection.register("trained_sizes", pa.table({"size": np.unique(trained.sizes)}))
    content_hash = "xxh128" if "xxh128" in table.columns else "NULL::VARCHAR"
    table.connection.execute(
        f"CREATE TEMP TABLE candidates AS SELECT uri, truth = label AS correct, bytes AS size,"
        f" {content_hash} AS xxh128 FROM judged WHERE status = 'ok' AND truth IS NOT NULL"
        " AND bytes IN (SELECT size FROM trained_sizes)"
    )


def _read_again(
    table: Table, trained: TrainedImages, count: int
) -> list[tuple[str, bool, str, float]]:
    """(uri, correct, split, weight) of the candidates without a hash, or of a sample of them."""
    rows = table.query(
        "SELECT uri, correct FROM (SELECT * FROM candidates WHERE xxh128 IS NULL)"
        f" USING SAMPLE reservoir({MOST_READ} ROWS) REPEATABLE ({_SEED})"
    )
    found = _find(table, trained, [uri for uri, _ in rows])
    weight = count / len(rows) if rows else 1.0
    return [(uri, correct, found[uri], weight) for uri, correct in rows]


def describe_overlap(overlap: dict[str, Any], evaluated: int) -> str:
    """What was found, for people, in a line; "" where nothing can be said."""
    if not overlap["known"]:
        return overlap["why"] and f"not compared with the training images: {overlap['why']}"
    sample = overlap["compared"] < overlap["same_size"]
    of = (
        f"a sample of {counted(overlap['compared'], 'image')}"
        if sample
        else counted(evaluated, "image")
    )
    count = overlap["train"] + overlap["val"]
    lines = []
    if count:
        text = f"{count:,} of {of} the model knows from its training"
        if overlap["val"]:
            text = f"{text} ({overlap['val']:,} of them as validation images)"
        without = overlap["accuracy_without"]
        about = "about " if sample else ""
        accuracy = "no other is left" if without is None else f"accuracy {about}{without:.4f}"
        lines.append(f"{text}; without them: {accuracy}")
    if overlap["unreadable"]:
        lines.append(
            f"{overlap['unreadable']:,} could not be read again to be compared with the training"
            " images"
        )
    return "; ".join(lines) or "none of them is a training image"


def _trained_images(table: Table, model: str) -> tuple[TrainedImages | None, str]:
    """The model's hashes, or None and why there are none ("": it has no such file)."""
    ran = read_json(table.output, "run_report.json").get("model", {})
    folder = model or ran.get("location", "")
    if not folder:
        return None, "the run's report does not name the model; name its folder with --model"
    contract = store.join(folder, EXTRA, CONTRACT_FILE)
    try:
        digest = json.loads(store.read(contract)).get("digest")
    except (OSError, ValueError, AttributeError, UserError):
        if model:
            raise UserError(f"--model {model}: is no model folder") from None
        return None, f"the model is no longer at {folder}; name its folder with --model"
    if ran.get("digest") and digest != ran["digest"]:
        if model:
            raise UserError(
                f"--model {model}: is another model than the one that classified {table.output}"
            )
        return None, f"{folder} holds another model by now; name the right folder with --model"
    path = store.join(folder, EXTRA, TRAINED_IMAGES_FILE)
    try:
        content = store.read(path)
    except (OSError, UserError):
        return None, ""
    return parse_trained_images(content, path), ""


def _find(table: Table, trained: TrainedImages, uris: list[str]) -> dict[str, str]:
    """Of each image "train", "val", "" or `_UNREADABLE`."""
    images = Images(table.output)

    def look(uri: str) -> str:
        try:
            content = images.read(uri)
        except ImageError:
            return _UNREADABLE
        return trained.find(hash_content(content), len(content))

    return images.map(look, uris, _THREADS)
