"""Which images a model was trained on, as salted hashes: what an evaluation compares with.

The file travels in the model folder's `assets.extra`. It holds no name and no pixel: who has an
image can find out whether it is one of them, and nobody can find out from it what the images show.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import zipfile

import numpy as np
import xxhash

from imagecensus.model_export.contract import EXTRA, ModelError

TRAINED_IMAGES_FILE = "trained_images.npz"
_MOST_BYTES = 2 << 30  # what a hostile file may make of the memory of who reads it


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedImages:
    """The images that a model learned from (train), and those that chose its best epoch (val).

    Attributes:
      salt: at most 64 bytes; hashes of two models have nothing in common.
      hashes: uint64 [N], `salted` of each file's `hash_content`, ascending.
      sizes: int64 [N], bytes of each file: only files of these sizes need to be read.
      validation: bool [N], False for the images that were learned from.
    """

    salt: bytes
    hashes: np.ndarray
    sizes: np.ndarray
    validation: np.ndarray

    def __len__(self) -> int:
        return len(self.hashes)

    def find(self, content_hash: str, size: int) -> str:
        """ "train" or "val" for a file that is one of them, else ""; see `hash_content`."""
        wanted = np.uint64(salted(content_hash, self.salt))
        at = int(np.searchsorted(self.hashes, wanted))
        if at == len(self) or self.hashes[at] != wanted or self.sizes[at] != size:
            return ""
        return "val" if self.validation[at] else "train"


def hash_content(content: bytes) -> str:
    """XXH3-128 of a file's bytes, 32 hex digits: what a table's column `xxh128` holds."""
    return xxhash.xxh3_128_hexdigest(content)


def salted(content_hash: str, salt: bytes) -> int:
    """64 bits of a hash, others for each salt (of at most 64 bytes)."""
    digest = hashlib.blake2b(content_hash.encode(), digest_size=8, key=salt).digest()
    return int.from_bytes(digest, "little")


def collect_trained_images(
    salt: bytes, train: tuple[np.ndarray, np.ndarray], val: tuple[np.ndarray, np.ndarray]
) -> TrainedImages:
    """Joins the (hashes uint64 [N], sizes int64 [N]) of both splits; train wins where both have
    an image.
    """
    hashes, first = np.unique(np.concatenate([train[0], val[0]]), return_index=True)
    return TrainedImages(
        salt=salt,
        hashes=hashes.astype(np.uint64),
        sizes=np.concatenate([train[1], val[1]])[first].astype(np.int64),
        validation=first >= len(train[0]),
    )


def write_trained_images(directory: str, trained: TrainedImages) -> None:
    """Writes the file into a model folder, before its digest is taken."""
    folder = os.path.join(directory, EXTRA)
    os.makedirs(folder, exist_ok=True)
    np.savez(
        os.path.join(folder, TRAINED_IMAGES_FILE),
        salt=np.frombuffer(trained.salt, np.uint8),
        hashes=trained.hashes,
        sizes=trained.sizes,
        validation=trained.validation,
    )


def parse_trained_images(content: bytes, source: str) -> TrainedImages:
    """Reads the file's content.

    Raises:
      ModelError: it is damaged; the message names `source`.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as members:
            if sum(member.file_size for member in members.infolist()) > _MOST_BYTES:
                raise ValueError("it is larger than any training's")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            trained = TrainedImages(
                salt=arrays["salt"].tobytes(),
                hashes=arrays["hashes"],
                sizes=arrays["sizes"],
                validation=arrays["validation"],
            )
        columns = (trained.hashes, trained.sizes, trained.validation)
        kinds = [column.dtype.kind for column in columns]
        if kinds != ["u", "i", "b"] or len({column.shape for column in columns}) != 1:
            raise ValueError("its columns do not belong together")
        if trained.hashes.ndim != 1 or len(trained.salt) > 64:
            raise ValueError("its columns are no lists")
    except Exception as error:  # a damaged zip raises a dozen types; nothing is unpickled
        raise ModelError(f"{source}: cannot be read: {error}") from None
    return trained
