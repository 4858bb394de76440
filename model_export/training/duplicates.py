"""The same image more than once among the training data: in two splits, or in two classes.

Found by the hash of the decoded pixels, so that a copy with another name, other metadata or in
another lossless format is found too. What is in train and in test makes the test's figures better
than they are; what is in two classes teaches both.
"""

from __future__ import annotations

import csv
import dataclasses
from typing import Any

import numpy as np

from imagecensus.model_export.training import evaluation
from imagecensus.model_export.training.decoded_images import Images
from imagecensus.model_export.training.splits import SPLITS, uri_of_name

DUPLICATES_FILE = "duplicates.csv"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Images that occur more than once.

    Attributes:
      counts: by kind: "val_in_train", "test_in_train", "test_in_val" (images of the first split
        that the second has too), "in_two_classes" (different images with more than one class),
        "copies" (images that are one of the same split and class again).
      rows: (group, split, label, name) of each image that has a copy.
    """

    counts: dict[str, int]
    rows: list[tuple[int, str, str, str]]


def find_duplicates(images: dict[str, Images], labels: tuple[str, ...]) -> Duplicates:
    """Compares all images of all splits; O(N) memory."""
    names = [name for name in SPLITS if name in images]
    pixels = np.concatenate([images[name].hashes["pixels"] for name in names])
    split = np.repeat(np.arange(len(names)), [len(images[name]) for name in names])
    label = np.concatenate([images[name].labels for name in names])
    _, group, size = np.unique(pixels, return_inverse=True, return_counts=True)
    twice = np.flatnonzero(size[group] > 1)
    twice = twice[np.argsort(group[twice], kind="stable")]
    kinds = np.unique(np.stack([group[twice], label[twice]], 1), axis=0)
    _, classes = np.unique(kinds[:, 0], return_counts=True)
    placed = np.unique(np.stack([group[twice], split[twice], label[twice]], 1), axis=0)
    counts = {
        f"{name}_in_{earlier}": int(_also_in(images[name], images[earlier]).sum())
        for name, earlier in (("val", "train"), ("test", "train"), ("test", "val"))
        if name in images and earlier in images
    }
    counts["in_two_classes"] = int((classes > 1).sum())
    counts["copies"] = len(twice) - len(placed)
    every = [name for part in names for name in images[part].names]
    rows = [
        (int(group[row]), names[split[row]], labels[label[row]], uri_of_name(every[row]))
        for row in twice.tolist()
    ]
    return Duplicates(counts=counts, rows=rows)


def _also_in(images: Images, others: Images) -> np.ndarray:
    """bool [N]: which of the images another split has too."""
    return np.isin(images.hashes["pixels"], others.hashes["pixels"])


def add_unseen(
    metrics: dict[str, dict[str, Any]], images: dict[str, Images], answers: dict[str, np.ndarray]
) -> dict[str, dict[str, Any]]:
    """Adds `unseen` to a split's figures: those without the images that train or val has too.

    Only where there are such images, and others.
    """
    complete = dict(metrics)
    for name, earlier in (("val", ("train",)), ("test", ("train", "val"))):
        seen = np.zeros(len(images[name]), bool)
        for other in earlier:
            seen |= _also_in(images[name], images[other])
        if seen.any():
            figures = evaluation.evaluate(answers[name][~seen], images[name].labels[~seen])
            complete[name] = {**complete[name], "unseen": figures}
    return complete


def describe_duplicates(duplicates: Duplicates) -> str:
    """What was found, for people, in one line."""
    counts, found = duplicates.counts, []
    for name, earlier in (("test", "train"), ("val", "train"), ("test", "val")):
        count = counts.get(f"{name}_in_{earlier}", 0)
        if count:
            found.append(f"{count} {name} image{'s are' if count > 1 else ' is'} in {earlier} too")
    count = counts["in_two_classes"]
    if count:
        example = _example_of_two_classes(duplicates)
        found.append(
            f"{count} image{'s are' if count > 1 else ' is'} in more than one class ({example})"
        )
    if counts["copies"]:
        found.append(f"{counts['copies']} within one split and class")
    return f"the same image more than once: {'; '.join(found)}"


def _example_of_two_classes(duplicates: Duplicates) -> str:
    first: dict[int, tuple[int, str, str, str]] = {}
    for row in duplicates.rows:
        other = first.setdefault(row[0], row)
        if other[2] != row[2]:
            return f"{other[3]} is {other[2]}, {row[3]} is {row[2]}"
    return ""


def write_duplicates(path: str, duplicates: Duplicates) -> None:
    """Writes a CSV: group (the same number: the same image), split, label, uri."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("group", "split", "label", "uri"))
        writer.writerows(duplicates.rows)
