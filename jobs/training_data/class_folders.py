"""Class folders as labelled images: DATA/CLASS/*.jpg, or DATA/train/CLASS/*.jpg and so on."""

from __future__ import annotations

import os

from imagecensus.model_export.common.ignored_names import is_ignored, is_own
from imagecensus.model_export.training.labelled_data import split_of_files
from imagecensus.model_export.training.splits import SPLIT_NAMES, DataError, Split


def read_class_folders(folder: str) -> tuple[list[str], dict[str, Split]]:
    """The classes, and the splits that the folder has: one folder a class, or a split.

    Raises DataError: a class without images.
    """
    folder = os.path.abspath(folder)
    top = _folders(folder)
    named = {
        SPLIT_NAMES[name.lower()]: os.path.join(folder, name)
        for name in top
        if name.lower() in SPLIT_NAMES
    }
    if "train" not in named:
        named = {"train": folder}
    labels = sorted({label for path in named.values() for label in _folders(path)})
    class_ids = {label: class_id for class_id, label in enumerate(labels)}
    found: dict[str, Split] = {}
    problems: list[str] = []
    for split, path in named.items():
        paths: list[str] = []
        ids: list[int] = []
        for label in _folders(path):
            files = _files(os.path.join(path, label))
            if not files:
                problems.append(f"{os.path.join(path, label)}: empty class folder")
            paths += files
            ids += [class_ids[label]] * len(files)
        found[split] = split_of_files(paths, ids)
    if problems:
        raise DataError("; ".join(problems[:10]) + "; remove it or fill it")
    return labels, found


def _folders(path: str) -> list[str]:
    with os.scandir(path) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and not is_ignored(entry.name)]
    return sorted(name for name in names if not is_own(os.path.join(path, name)))


def _files(folder: str) -> list[str]:
    found = []
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(
            name
            for name in folders
            if not is_ignored(name) and not is_own(os.path.join(root, name))
        )
        found += [os.path.join(root, name) for name in sorted(names) if not is_ignored(name)]
    return found
