"""What lies among people's images and is none of them: one rule for every listing of folders."""

from __future__ import annotations

import os

FILES = {"thumbs.db", "desktop.ini", "ehthumbs.db", "picasa.ini", "zbthumbnail.info"}
# Thumbnails, bins and notes that systems and network disks keep beside people's files.
FOLDERS = {
    "@eadir", "#recycle", "@recycle", "#snapshot", "@recently-snapshot", "$recycle.bin",
    "recycler", "system volume information", "__macosx", "lost+found",
}  # fmt: skip
# Where one of these lies, the folder is this program's own: a dataset, or a model.
_OWN = (b"_imagecensus", b"assets.extra/contract.json")
_TRAINING = b".training"


def is_ignored(name: str | bytes) -> bool:
    """Whether a file or folder of this name is never listed."""
    text = os.fsdecode(name)
    return text.startswith(".") or text.lower() in FILES or text.lower() in FOLDERS


def is_own(folder: str | bytes) -> bool:
    """Whether a local folder was written by this program: a dataset, a model, a training."""
    path = os.fsencode(folder)
    if path.endswith(_TRAINING) and is_own(path.removesuffix(_TRAINING)):
        return True
    return any(os.path.lexists(os.path.join(path, name)) for name in _OWN)
