"""Web addresses, http:// and https://, as a store that is only read."""

from __future__ import annotations

import email.utils
import re
from collections.abc import Iterator

from imagecensus.transforms.storage.protocol import ChangedError, StorageError, Stored
from imagecensus.transforms.storage.web.fetch import Answer, PageError, fetch

MAX_BYTES = 1 << 30
HIDDEN = "[redacted]"  # what stands for a secret in an address that was listed


class ReadOnly:
    """What a store that nothing can be written to answers."""

    def _read_only(self, location: str) -> StorageError:
        return StorageError(
            f"{location}: web addresses are only read; choose a folder or a store (s3://, gs://,"
            " az://)"
        )

    def write(self, uri: str, data: bytes, *, create_only: bool = False, if_match: str = "") -> str:
        raise self._read_only(uri)

    def upload(self, uri: str, path: str) -> None:
        raise self._read_only(uri)

    def copy(self, uri: str, target: str) -> None:
        raise self._read_only(target)

    def delete(self, uri: str) -> None:
        raise self._read_only(uri)


class WebStore(ReadOnly):
    """Web addresses. A version is an ETag without its quotes, else the time of the last change."""

    def check(self, location: str) -> str:
        return "read without credentials"

    def list(self, prefix: str) -> Iterator[Stored]:
        """The address itself: the web has no folders."""
        yield self.stat(prefix)

    def list_folder(self, folder: str) -> Iterator[Stored]:
        raise self._read_only(folder)

    def stat(self, uri: str) -> Stored:
        try:
            answer = self._ask(uri, 0, method="HEAD")
            size = int(answer.headers.get("Content-Length", "-1"))
        except (FileNotFoundError, PermissionError, OSError, ValueError):
            size = -1
        if size < 0:  # many servers answer only what browsers ask
            answer = self._ask(uri, MAX_BYTES, headers={"Range": "bytes=0-0"})
            span = re.search(r"/(\d+)$", answer.headers.get("Content-Range", ""))
            size = int(span[1]) if answer.status == 206 and span else len(answer.data)
        return Stored(uri, size, version_of(answer), _modified(answer))

    def read(self, uri: str, version: str = "", max_bytes: int = MAX_BYTES) -> bytes:
        """The whole answer. Raises like files do, and PageError, TooLargeError."""
        answer = self._ask(uri, max_bytes, headers=_condition(version))
        if version and version_of(answer) not in ("", version):
            raise FileNotFoundError(2, "it was replaced after it was listed", uri)
        if answer.status != 200:
            raise OSError(5, f"the server answered {answer.status}", uri)
        kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind in ("text/html", "application/xhtml+xml") and answer.data.lstrip()[:1] == b"<":
            raise PageError(22, f"a page ({kind}), not an image", uri)
        return answer.data

    def read_range(self, uri: str, offset: int, length: int, version: str = "") -> bytes:
        headers = {"Range": f"bytes={offset}-{offset + length - 1}"} | _condition(version)
        answer = self._ask(uri, MAX_BYTES if offset == 0 else length, headers=headers)
        if answer.status == 416:
            return b""
        if version and version_of(answer) not in ("", version):
            raise ChangedError(116, "the archive was replaced after it was listed", uri)
        if answer.status == 200 and offset == 0:  # all of it is what a small archive is
            return answer.data[:length]
        if answer.status != 206:
            raise OSError(95, "its server gives no ranges of bytes; download it first", uri)
        return answer.data

    def _ask(
        self, uri: str, max_bytes: int, method: str = "GET", headers: dict[str, str] | None = None
    ) -> Answer:
        if HIDDEN in uri:
            raise OSError(
                126,
                "its address holds a signature or key, which is not kept: list it by an address"
                " without one, or by the s3://, gs:// or az:// uri of the object",
                uri,
            )
        return fetch(uri, max_bytes, method=method, headers=headers)


def version_of(answer: Answer) -> str:
    """An answer's version; "": it gives none."""
    tag = answer.headers.get("ETag", "").strip()
    if tag:
        return tag[1:-1] if tag.startswith('"') and tag.endswith('"') else tag
    return answer.headers.get("Last-Modified", "").strip()


def _condition(version: str) -> dict[str, str]:
    if not version or version.startswith("W/"):
        return {}
    if email.utils.parsedate_tz(version) and " " in version:
        return {"If-Unmodified-Since": version}
    return {"If-Match": version if version.startswith('"') else f'"{version}"'}


def _modified(answer: Answer) -> float:
    moment = email.utils.parsedate_tz(answer.headers.get("Last-Modified", ""))
    return email.utils.mktime_tz(moment) if moment else 0.0
