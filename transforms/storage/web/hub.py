"""Datasets of the Hugging Face Hub, hf://datasets/OWNER/NAME[@REVISION]/PATH, only read.

The Hub's library lists and finds the token (extra `huggingface`); bytes come as from any web
address. A version is the digest that the Hub keeps of a file, and what is read whole must have it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from imagecensus.model_export.common.redact import redact
from imagecensus.transforms.storage.locations import split
from imagecensus.transforms.storage.protocol import ChangedError, StorageError, Stored, as_sentence
from imagecensus.transforms.storage.web.fetch import fetch
from imagecensus.transforms.storage.web.store import MAX_BYTES, ReadOnly

_SHA256_LETTERS = 64


class HubStore(ReadOnly):
    """Files of datasets on the Hub."""

    def check(self, location: str) -> str:
        return "token found" if _token() else "read without a token"

    def list(self, prefix: str) -> Iterator[Stored]:
        root, start = split(prefix)
        folder = start.rpartition("/")[0]
        with as_sentence(prefix, "listed"):
            for found in _tree(root, folder, True, prefix):
                if found.path.startswith(start):
                    yield _stored(root, found)

    def list_folder(self, folder: str) -> Iterator[Stored]:
        root, name = split(folder.rstrip("/"))
        with as_sentence(folder, "listed"):
            for found in _tree(root, name, False, folder):
                yield _stored(root, found)

    def stat(self, uri: str) -> Stored:
        root, name = split(uri)
        repository, revision = _repository(root)
        with _plain_errors(uri):
            found = _api().get_paths_info(
                repository, [name], revision=revision, repo_type="dataset"
            )
        if not found or not hasattr(found[0], "size"):
            raise FileNotFoundError(2, "no such file in the dataset", uri)
        return _stored(root, found[0])

    def read(self, uri: str, version: str = "", max_bytes: int = MAX_BYTES) -> bytes:
        data = fetch(_url(uri), max_bytes, headers=_headers(), heed_robots=False).data
        if version and _digest(data, version) != version:
            raise FileNotFoundError(2, "no such file, or it was replaced", uri)
        return data

    def read_range(self, uri: str, offset: int, length: int, version: str = "") -> bytes:
        wanted = {"Range": f"bytes={offset}-{offset + length - 1}"}
        answer = fetch(_url(uri), length, headers=_headers() | wanted, heed_robots=False)
        if answer.status == 416:
            return b""
        tag = answer.headers.get("X-Linked-ETag") or answer.headers.get("ETag", "")
        known = tag.removeprefix("W/").strip('"')
        if version and len(known) == len(version) and known != version:
            raise ChangedError(116, "the archive was replaced after it was listed", uri)
        return answer.data[:length]

    def _read_only(self, location: str) -> StorageError:
        return StorageError(
            f"{location}: datasets of the Hub are only read; choose a folder or a store (s3://,"
            " gs://)"
        )


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


@functools.cache
def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise StorageError(
            "hf://: needs the package huggingface_hub; pip install 'imagecensus[huggingface]'"
        ) from None
    return huggingface_hub


def _api() -> Any:
    return _library().HfApi(endpoint=_endpoint(), token=_token() or False)


def _token() -> str:
    return _library().get_token() or ""


def _headers() -> dict[str, str]:
    token = _token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _repository(root: str) -> tuple[str, str]:
    """(owner/name, revision) of a root, hf://datasets/OWNER/NAME@REVISION/."""
    name, _, revision = root.removeprefix("hf://datasets/").rstrip("/").partition("@")
    return name, revision or "main"


def _url(uri: str) -> str:
    root, name = split(uri)
    repository, revision = _repository(root)
    return f"{_endpoint()}/datasets/{repository}/resolve/{quote(revision, '')}/{quote(name)}"


def _tree(root: str, folder: str, recursive: bool, uri: str) -> Iterator[Any]:
    repository, revision = _repository(root)
    with _plain_errors(uri):
        yield from (
            found
            for found in _api().list_repo_tree(
                repository, folder or None, recursive=recursive, revision=revision,
                repo_type="dataset",
            )
            if hasattr(found, "size")
        )  # fmt: skip


def _stored(root: str, found: Any) -> Stored:
    digest = found.lfs.sha256 if found.lfs else found.blob_id
    return Stored(root + found.path, found.size, digest, 0.0)


def _digest(data: bytes, like: str) -> str:
    """The digest of a large file is its own, that of a small one is Git's."""
    if len(like) == _SHA256_LETTERS:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@contextlib.contextmanager
def _plain_errors(uri: str) -> Iterator[None]:
    """The library's errors as FileNotFoundError, PermissionError or OSError of the uri."""
    _library()  # says what is missing, where it is
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise PermissionError(
            13, "the dataset is gated: ask for access, set HF_TOKEN", uri
        ) from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise FileNotFoundError(2, "no such dataset, or HF_TOKEN may not see it", uri) from None
    except errors.EntryNotFoundError:
        raise FileNotFoundError(2, "no such file in the dataset", uri) from None
    except StorageError:
        raise
    except Exception as error:  # what its HTTP library raises changes with its versions
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise OSError(5, redact(text), uri) from None
