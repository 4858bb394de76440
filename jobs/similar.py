"""`imagecensus similar`: the nearest images of one, or groups of near-duplicates.

Exact: every embedding is compared, by cosine. One image against a table is a query of DuckDB, in
bounded memory whatever the table's length. All against all grows with the square of the rows, so
that has a limit (`MAX_IMAGES`: half a gigabyte of embeddings and some minutes).
"""

from __future__ import annotations

if __name__ == "__main__":  # first: help needs nothing of what follows
    from imagecensus.jobs.cli import command

    command("similar")

import importlib.util
import itertools
import json
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagecensus.jobs.options.similar import SimilarOptions
from imagecensus.jobs.predict import Predictor, printable, read_one_image
from imagecensus.jobs.results.open_table import Table, open_table, read_json
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.common.quantities import counted
from imagecensus.transforms.dataset.layout import identity_in
from imagecensus.transforms.inputs.locate import resolve
from imagecensus.transforms.inputs.packed_members import split_member

_BLOCK = 4096

Name = tuple[str, str, int | None]  # uri, label and pixels of a row
Vectors = NDArray[np.float32]


def main(options: SimilarOptions) -> int:
    with open_table(options.output) as table:
        if "embedding" not in table.columns:
            raise UserError(
                f"{options.output}: the table has no embeddings; run classify with --embeddings"
                " into another --output"
            )
        if options.duplicates:
            if not importlib.util.find_spec("scipy"):
                raise UserError("scipy is not installed: pip install 'imagecensus[report]'")
            rows = find_duplicates(table, options.threshold, options.max_images)
            text = describe_groups(rows)
        else:
            query, itself = _query(table, options)
            rows = find_nearest(table, query, options.top, itself)
            text = "\n".join(
                f"{row['similarity']:.4f}  {printable(row['label']):<16}  {printable(row['uri'])}"
                for row in rows
            )
    print("\n".join(map(json.dumps, rows)) if options.json else text)
    return 0


def read_embeddings(table: Table) -> Iterator[tuple[list[Name], Vectors]]:
    """All classified rows in blocks: what they are, and their embeddings at unit length.

    Yields:
      (N names, float32 [N, D]).
    """
    # A reader streams: no more than a few blocks are in memory.
    reader = table.connection.sql(
        "SELECT uri, label, width::BIGINT * height AS pixels, embedding FROM predictions"
        " WHERE status = 'ok'"
    ).to_arrow_reader(_BLOCK)
    for batch in reader:
        if batch.num_rows:
            names = zip(*(batch[n].to_pylist() for n in ("uri", "label", "pixels")), strict=True)
            vectors = batch["embedding"].flatten().to_numpy(zero_copy_only=False)
            yield list(names), _unit(vectors.reshape(batch.num_rows, -1).astype(np.float32))


def find_nearest(table: Table, query: Vectors, top: int, itself: str = "") -> list[dict[str, Any]]:
    """The `top` most similar rows, best first; ties in order of uri.

    Args:
      query: float32 [D].
      itself: a uri to leave out.
    """
    [(size,)] = table.query("SELECT max(len(embedding)) FROM predictions WHERE status = 'ok'")
    if size not in (None, len(query)):
        raise UserError(
            f"{table.output}: has embeddings of {size} numbers, the image one of {len(query)};"
            " name the model of that run with --model"
        )
    n = len(query)
    rows = table.query(
        f"""
        SELECT if(isnan(cosine), 0, cosine) AS similarity, label, uri FROM (
          SELECT label, uri, array_cosine_similarity(embedding::FLOAT[{n}], ?::FLOAT[{n}]) AS cosine
          FROM predictions WHERE status = 'ok' AND uri != ?)
        ORDER BY similarity DESC, uri LIMIT ?
        """,
        query.tolist(),
        itself,
        top,
    )
    return [dict(zip(("similarity", "label", "uri"), row, strict=True)) for row in rows]


def find_duplicates(table: Table, threshold: float, max_images: int) -> list[dict[str, Any]]:
    """Groups of images that hang together by similarities of at least `threshold`.

    Returns:
      a row per image of a group: `group` from 1, largest group first; `uri`; `label`; `pixels`;
      `similarity` to the group's first image, which is the one with most pixels. (Images of a
      group may be less alike than the threshold: each is near to some other one.)

    Raises:
      UserError: the table is longer than `max_images`.
    """
    [(count, size)] = table.query(
        "SELECT count(*), max(len(embedding)) FROM predictions WHERE status = 'ok'"
    )
    if count > max_images:
        raise UserError(
            f"{table.output}: {count:,} images are {count * (count - 1) // 2:,} comparisons, over"
            f" the limit of --max-images={max_images:,}; raise it if you have the time"
        )
    if not count:
        return []
    with tempfile.TemporaryDirectory(prefix="imagecensus-") as folder:
        vectors = np.memmap(os.path.join(folder, "vectors"), np.float32, "w+", shape=(count, size))
        names: list[Name] = []
        for block_names, block in read_embeddings(table):
            vectors[len(names) : len(names) + len(block)] = block
            names += block_names
        # The largest image of a group comes first, the largest group too.
        groups = [
            sorted(group, key=lambda index: (-(names[index][2] or 0), names[index][0]))
            for group in group_alike(vectors, threshold)
        ]
        groups.sort(key=lambda group: (-len(group), names[group[0]][0]))
        rows = []
        for number, group in enumerate(groups, start=1):
            for index in group:
                uri, label, pixels = names[index]
                similarity = min(float(vectors[index] @ vectors[group[0]]), 1.0)
                row = {"group": number, "uri": uri, "label": label, "pixels": pixels}
                rows.append({**row, "similarity": similarity})
    return rows


def group_alike(vectors: Vectors, threshold: float) -> list[list[int]]:
    """Connected groups (two or more) of rows whose dot product is at least `threshold`.

    Args:
      vectors: float32 [N, D], unit length.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(vectors)
    group = np.arange(count)
    for top in range(0, count, _BLOCK // 4):
        rows = np.asarray(vectors[top : top + _BLOCK // 4])
        for left in range(top - top % _BLOCK, count, _BLOCK):
            first, second = np.nonzero(rows @ vectors[left : left + _BLOCK].T >= threshold)
            pairs = np.stack([group[first + top], group[second + left]])
            pairs = np.unique(pairs[:, pairs[0] != pairs[1]], axis=1)
            if pairs.size:
                alike = coo_array((np.ones(pairs.shape[1], bool), pairs), (count, count))
                group = connected_components(alike, directed=False)[1][group]
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    return [members.tolist() for members in np.split(order, starts[1:]) if len(members) > 1]


def describe_groups(rows: list[dict[str, Any]]) -> str:
    """Groups for people."""
    if not rows:
        return "no near-duplicates"
    lines = []
    for number, group in itertools.groupby(rows, key=lambda row: row["group"]):
        lines += ["", f"group {number}"]
        for row in group:
            size = f"{row['pixels'] or 0:>11,} px"
            lines.append(f"  {row['similarity']:.4f}  {size}  {printable(row['uri'])}")
    spare = len(rows) - rows[-1]["group"]
    groups = counted(rows[-1]["group"], "group")
    head = f"{groups} of near-duplicates, {counted(spare, 'image')} more than needed"
    return "\n".join([head, *lines])


def _unit(vectors: Vectors) -> Vectors:
    unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit


def _query(table: Table, options: SimilarOptions) -> tuple[Vectors, str]:
    """The embedding to look for, and the uri it has in the table ("" where it is another one)."""
    packed = split_member(options.image, "")
    uri = packed.uri if packed else resolve(options.image, "")
    found = table.query(
        "SELECT uri, embedding FROM predictions WHERE uri IN (?, ?) AND status = 'ok'",
        options.image,
        uri,
    )
    if found:
        return np.array(found[0][1], np.float32), found[0][0]
    model = options.model or read_json(table.output, "run_report.json").get("model", {}).get(
        "location"
    )
    if not model:
        raise UserError("--model is missing: the folder of the model that made the table")
    predictor = Predictor(model, top_k=1)
    made_by = identity_in(read_json(table.output, "_imagecensus/dataset.json"))
    if made_by.get("model", predictor.contract.digest) != predictor.contract.digest:
        raise UserError(f"{model}: another model made {table.output}; name that one with --model")
    [row] = predictor.predict([read_one_image(options.image)], embeddings=True)
    if row["status"] != "ok":
        raise UserError(f"{options.image}: {row['status']}: {row['error']}")
    return row["embedding"], ""
