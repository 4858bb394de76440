"""Class folders as labelled images: DATA/CLASS/*.jpg, or DATA/train/CLASS/*.jpg and so on."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator
from unicodedata import normalize

from imagecensus.model_export.common.ignored_names import (
    is_dataset,
    is_dataset_entry,
    is_ignored,
    is_no_image_name,
    is_own,
    left_out_text,
)
from imagecensus.model_export.common.names import fold
from imagecensus.model_export.common.quantities import counted
from imagecensus.model_export.training.labelled_data import split_of_files
from imagecensus.model_export.training.splits import SPLIT_NAMES, DataError, Split
from imagecensus.transforms.inputs.files import Unlisted, list_local
from imagecensus.transforms.inputs.links import Listed
from imagecensus.transforms.inputs.selection import Selection
from imagecensus.transforms.storage import store

_NAMED = 4  # examples in a note


def read_class_folders(folder: str) -> tuple[list[str], dict[str, Split], list[str]]:
    """The classes, the splits that the folder has, and notes of what of it was not used or joined.

    Folders of one class or split may be spelt in several ways (`Cat` and `cat`, `val` and
    `validation`): they are one.

    Raises DataError: a class without images, or a folder that cannot be read.
    """
    folder = os.path.abspath(folder)
    notes: list[str] = []
    left_out: collections.Counter[str] = collections.Counter()
    splits = _split_folders(folder, notes)
    spellings: dict[str, str] = {}  # of a class as people compare them: the first, train's before
    files: dict[str, dict[str, list[str]]] = {}  # by split and class
    problems: list[str] = []
    for split in sorted(splits, key=lambda name: name != "train"):
        for place in splits[split]:
            for name in _folders(place):
                path = os.path.join(place, name)
                found = _files(path, notes, left_out)
                if not found:
                    problems.append(f"{path}: empty class folder")
                label = spellings.setdefault(fold(name), normalize("NFC", name.strip()))
                if label != name:
                    notes.append(f"{path} is taken as class {label!r}")
                files.setdefault(split, {}).setdefault(label, []).extend(found)
    if problems:
        raise DataError("; ".join(problems[:10]) + "; remove it or fill it")
    if left_out:
        notes.append(f"{folder}: left out by rule: {left_out_text(left_out)}")
    labels = sorted(spellings.values())
    return labels, {name: _split(labels, files.get(name, {})) for name in splits}, notes


def _split(labels: list[str], files: dict[str, list[str]]) -> Split:
    paths = [path for label in labels for path in files.get(label, ())]
    ids = [index for index, label in enumerate(labels) for _ in files.get(label, ())]
    return split_of_files(paths, ids)


def _split_folders(folder: str, notes: list[str]) -> dict[str, list[str]]:
    """The folders that hold class folders, by split; a folder of class folders is "train"."""
    named: dict[str, list[str]] = {}
    for name in _folders(folder):
        if fold(name) in SPLIT_NAMES:
            named.setdefault(SPLIT_NAMES[fold(name)], []).append(name)
    if "train" not in named:
        _note_loose_files(folder, notes)
        return {"train": [folder]}
    used = {name for names in named.values() for name in names}
    _note_loose_files(folder, notes)
    for name in _folders(folder):
        path = os.path.join(folder, name)
        if name not in used and (count := sum(1 for _ in _walk(path))):
            notes.append(
                f"{path} is not used, {counted(count, 'file')}: beside train only val and test are"
                " splits"
            )
    splits: dict[str, list[str]] = {}
    for split, names in named.items():
        for path in (os.path.join(folder, name) for name in names):
            if _folders(path):
                _note_loose_files(path, notes)
                splits.setdefault(split, []).append(path)
            elif split == "train":
                raise DataError(f"{path}: has no class folders; expected one folder per class")
            elif len(names) == 1:
                unused = counted(sum(1 for _ in _walk(path)), "file")
                notes.append(
                    f"{path} has no class folders: {unused} in it left out; a {split} split is cut"
                    " from the training images instead"
                )
            else:
                notes.append(f"{path} has no class folders and is left out")
    return splits


def _note_loose_files(folder: str, notes: list[str]) -> None:
    """Notes files that lie beside class folders, and so in no class."""
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if not e.is_dir() and not is_ignored(e.name))
    if names:
        notes.append(
            f"{folder}: {counted(len(names), 'file')} in no class folder left out"
            f" ({', '.join(names[:_NAMED])}{', …' if len(names) > _NAMED else ''})"
        )


def _folders(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            names = [e.name for e in entries if e.is_dir() and not is_ignored(e.name)]
    except OSError as error:
        raise DataError(f"{path}: cannot be listed: {error.strerror}") from None
    if is_dataset(path):
        names = [name for name in names if not is_dataset_entry(name)]
    return sorted(name for name in names if not is_own(os.path.join(path, name)))


def _files(folder: str, notes: list[str], left_out: collections.Counter[str]) -> list[str]:
    """The files of a class folder and the folders below it; notes that there are such folders."""
    found = list(_walk(folder, left_out))
    inner = sorted({os.path.relpath(path, folder).split(os.sep)[0]
                    for path in found if os.path.dirname(path) != folder})  # fmt: skip
    if inner:
        shown = ", ".join(inner[:_NAMED]) + (", …" if len(inner) > _NAMED else "")
        notes.append(
            f"{folder} has folders with images ({shown}): all of them are class"
            f" {os.path.basename(folder)!r}; if they are classes of their own, move them up"
        )
    return found


def _walk(folder: str, left_out: collections.Counter[str] | None = None) -> Iterator[str]:
    """The files below a folder that may be images, as `classify` lists them.

    What is left out is counted by kind.
    """
    selection = Selection(left_out=collections.Counter() if left_out is None else left_out)
    for uri, _, version in list_local(folder, selection, Listed([os.fsencode(folder)])):
        if isinstance(version, Unlisted):
            raise DataError(f"{uri}: {version.reason}")
        if is_no_image_name(uri):
            selection.left_out["no_images"] += 1
        else:
            yield os.fsdecode(store.path_of_uri(uri))
