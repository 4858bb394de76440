"""The files of one input: a folder, a file, a glob, or a prefix of a bucket.

Stated rules for a folder or prefix: every regular file in it, at any depth, is listed in name
order, but for names that start with a dot, what systems and network disks keep, sidecars and videos
right beside an image, folders that this program wrote (`ignored_names`), and what the user excludes
(`selection`). What is left out is counted by kind. Links never add a row to an image that has one
(`links`). Sockets, pipes and devices are not listed. A folder that cannot be listed, or not to its
end, is listed itself: its row says why, and how many entries were seen before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import glob
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import pyarrow as pa

from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.common.ignored_names import (
    ignored_kind,
    is_dataset,
    is_dataset_entry,
    is_image_name,
    is_own,
    without_sidecars,
)
from imagecensus.model_export.common.quantities import counted
from imagecensus.model_export.common.redact import redact_address
from imagecensus.transforms.archives.members import is_archive_name
from imagecensus.transforms.inputs.check import GLOB_CHARACTERS, is_glob
from imagecensus.transforms.inputs.links import Linked, Listed
from imagecensus.transforms.inputs.selection import Selection, translate
from imagecensus.transforms.records import REF_SCHEMA
from imagecensus.transforms.storage import store
from imagecensus.transforms.storage.protocol import Stored

CHUNK = 8192
_LISTING_STATUS = {
    errno.EACCES: "permission_denied", errno.EPERM: "permission_denied", errno.ENOENT: "not_found",
}  # fmt: skip
_OWN_FOLDERS = ("_imagecensus", "assets.extra")  # in a folder that this program wrote
_PLOTS = {"confusion.png", "calibration.png", "coverage.png"}  # of an evaluation
_MODEL = {"saved_model.pb", "fingerprint.pb", "variables"}
_TRAINING = ".training"
_LINKS = 1_000_000  # that wait, until it is known what other links lead to
File = tuple[str, int, str]  # uri, size, mtime in ns or generation


class Version(str):
    """An object's version, and its checksum where the store gives one."""

    checksum = ""


class Unlisted(str):
    """In place of a folder's time: it could not be listed. The text is the reference's `member`."""

    @property
    def reason(self) -> str:
        return str(json.loads(self)[-1])


class InputError(UserError):
    """An input cannot be listed. The message names it and the remedy."""


def list_files(
    text: str, selection: Selection | None = None, listed: Listed | None = None
) -> Iterator[File]:
    """The files of an input, one after the other. Raises InputError.

    `listed`: what all inputs list; what links lead to waits there. None: this is the only input.
    """
    if store.is_web(text):
        return list_address(text)
    selection = selection if selection is not None else Selection()
    if store.is_bucket(text):
        return list_bucket(text, selection)
    if listed is not None:
        return _list_local(text, selection, listed)
    return list_local(text, selection, listed_by((text,)))


def listed_by(inputs: tuple[str, ...]) -> Listed:
    """What the local ones among the inputs list under its own name."""
    local = [absolute(text) for text in inputs if not store.is_remote(text)]
    globs = [path for path in local if not os.path.lexists(path) and is_glob(os.fsdecode(path))]
    patterns = ((_root(path), _relative(path, _root(path))) for path in globs)
    return Listed(filter(os.path.exists, local), patterns)


def path_in_input(text: str, uri: str) -> str:
    """The path of a file relative to its input, as patterns see it; with slashes."""
    if store.is_remote(text):
        root = text if uri.startswith(text.rstrip("/") + "/") else _fixed(text)
        return uri.removeprefix(root.rstrip("/")).lstrip("/")
    return os.fsdecode(_relative(store.path_of_uri(uri), _root(absolute(text))))


def _fixed(pattern: str) -> str:
    """The folder, or prefix, in which all that a glob matches lies, or that a file lies in."""
    magic = GLOB_CHARACTERS.search(pattern)
    return (pattern[: magic.start()] if magic else pattern).rpartition("/")[0]


def _root(path: bytes) -> bytes:
    """The folder that paths of an input are relative to."""
    return path if os.path.isdir(path) else os.fsencode(_fixed(os.fsdecode(path)))


def _relative(path: bytes, root: bytes) -> bytes:
    inside = root.rstrip(b"/") + b"/"
    return path[len(inside) :] if path.startswith(inside) else os.path.basename(path)


def list_local(text: str, selection: Selection, listed: Listed) -> Iterator[File]:
    """References of a folder (recursive), a file, or a glob: (uri, size, mtime in ns)."""
    yield from _list_local(text, selection, listed)
    yield from (file for _, file in listed.follow_links())


def _list_local(text: str, selection: Selection, listed: Listed) -> Iterator[File]:
    """The same but for what links lead to, which waits in `listed`."""
    path = absolute(text)
    if os.path.lexists(path):
        paths = [path]
    elif is_glob(text):
        paths = list(glob.iglob(path, recursive=True))
        if not paths:
            raise InputError(f"{text}: nothing matches; quote the pattern and check it")
    else:
        raise InputError(f"{text}: no such file or folder")
    root = _root(path)
    lister = _Lister(text=text, named=set(paths), root=root, selection=selection, listed=listed)
    return lister.list_all(_through_links(paths, root, listed))


def _through_links(paths: list[bytes], root: bytes, listed: Listed) -> set[bytes]:
    """Those of the paths that a link leads to; of a glob's matches, one behind its fixed part."""
    if len(paths) == 1:
        return {path for path in paths if listed.real(path) != path}
    real_root = os.path.realpath(root)
    return {p for p in paths if listed.real(p) != os.path.join(real_root, _relative(p, root))}


def absolute(text: str) -> bytes:
    """The path of a local input."""
    return os.fsencode(os.path.abspath(text))


@dataclasses.dataclass(kw_only=True)
class _Lister:
    """Lists a local input.

    Attributes:
      text: the input.
      named: the path of the input, or what its pattern matches.
      root: what the paths that patterns see are relative to.
      visited: device and number of the folders so far.
    """

    text: str
    named: set[bytes]
    root: bytes
    selection: Selection
    listed: Listed
    visited: set[tuple[int, int]] = dataclasses.field(default_factory=set)

    def __post_init__(self) -> None:
        self.number = self.listed.wait_for(self.follow)

    def list_all(self, linked: set[bytes]) -> Iterator[File]:
        """What lies at each path to which no link leads.

        Args:
          linked: those of the paths that a link leads to.
        """
        paths = sorted(self.named)
        if linked:  # what a link leads to may be another of the paths
            for path in paths if len(paths) > 1 else ():
                if path not in linked:
                    self.listed.add(self.listed.real(path))
        for path in paths:
            if path not in linked and os.path.isdir(path):
                self.listed.add(self.listed.real(path))
                yield from self._walk(path, behind_link=False)
            elif len(paths) == 1 or os.path.isdir(path) or self._takes(path):
                yield from self._link(path) if path in linked else self._file(path)

    def _seen_as(self, path: bytes) -> str:
        """A path as patterns see it."""
        return os.fsdecode(_relative(path, self.root))

    def _takes(self, path: bytes) -> bool:
        return not self.selection.chooses or _takes(self.selection, self._seen_as(path))

    def _link(self, path: bytes) -> Iterator[File]:
        """Nothing, until it is known what else leads there."""
        if self.listed.wait(path, self.root, self.number) >= _LINKS:
            yield from (file for _, file in self.listed.follow_links())

    def _file(self, path: bytes) -> Iterator[File]:
        if reference := reference_of(path):
            yield reference
        else:
            self.selection.left_out["special"] += 1

    def follow(self, link: bytes) -> Linked:
        """What a link leads to, unless it has a row."""
        if not self.listed.take(link, self.selection):
            self.selection.left_out["links"] += 1
        elif os.path.isdir(link):
            yield from ((self.text, file) for file in self._walk(link, behind_link=True))
        else:
            yield from ((self.text, file) for file in self._file(link))

    def _walk(self, top: bytes, *, behind_link: bool) -> Iterator[File]:
        """Depth first, in name order; no recursion, as folders nest deeper than Python's stack."""
        pending = [top]
        while pending:
            path = pending.pop()
            try:
                info = os.stat(path)
            except OSError as cause:
                yield (store.uri_of_path(path), -1, _unlisted(cause, 0))
                continue
            if not stat.S_ISDIR(info.st_mode):
                yield from self._file(path)
                continue
            if (info.st_dev, info.st_ino) in self.visited:
                continue
            if behind_link and path != top and self._has_row(path):
                continue
            self.visited.add((info.st_dev, info.st_ino))
            if path not in self.named and is_own(path):
                self.selection.left_out["own"] += 1
                continue
            entries, error = _entries(path)
            if error:
                yield (store.uri_of_path(path), -1, _unlisted(error, len(entries)))
            if path in self.named and is_dataset(path):
                entries = [one for one in entries if not is_dataset_entry(_name_of(one))]
                self.selection.left_out["own"] += 1
            # Files at once; folders go on the stack, last first, so that they come in name order.
            kept = self._kept(path, entries)
            files = (entry for entry in kept if not entry.is_folder)
            for entry in without_sidecars(files, _name_of, self.selection.left_out):
                file = os.path.join(path, entry.name)
                if self._takes(file) and not (behind_link and self._has_row(file)):
                    yield from self._link(file) if entry.is_link else self._file(file)
            for entry in reversed([entry for entry in kept if entry.is_folder]):
                folder = os.path.join(path, entry.name)
                if self.selection.chooses and self.selection.excludes(self._seen_as(folder)):
                    continue
                if entry.is_link:
                    yield from self._link(folder)
                else:
                    pending.append(folder)

    def _has_row(self, path: bytes) -> bool:
        """Whether what a linked folder holds is listed under another name, too; it is counted."""
        known = self.listed.has(path)
        self.selection.left_out.update({"links": 1} if known else {})
        return known

    def _kept(self, folder: bytes, entries: list[_Entry]) -> list[_Entry]:
        """The entries that neither names nor links leave out."""
        kept = []
        for entry in entries:
            kind = ignored_kind(entry.name)
            if not kind and entry.is_link:
                real = self.listed.real(os.path.join(folder, entry.name))
                held = self.listed.holds(real, self.selection)
                kind = "links" if held or self.listed.leads_back(folder, entry.name) else ""
            if kind:
                self.selection.left_out[kind] += 1
            else:
                kept.append(entry)
        return kept


def _takes(selection: Selection, name: str) -> bool:
    """Whether a file is listed; of archives, `--include` is asked about their members."""
    return not selection.excludes(name) if is_archive_name(name) else selection.takes(name)


class _Entry(NamedTuple):
    name: bytes
    is_folder: bool
    is_link: bool


def _name_of(entry: _Entry) -> str:
    return os.fsdecode(entry.name)


def _entries(path: bytes) -> tuple[list[_Entry], OSError | None]:
    """The entries of a folder, in order; and why some are missing."""
    names = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                names.append(_Entry(entry.name, _is_folder(entry), entry.is_symlink()))
    except OSError as error:
        return sorted(names), error
    return sorted(names), None


def _unlisted(error: OSError, seen: int) -> Unlisted:
    status = _LISTING_STATUS.get(error.errno or 0, "read_error")
    code = errno.errorcode.get(error.errno or 0, "")
    entries = counted(seen, "entry", "entries")
    text = f"the folder could not be listed: {error.strerror} ({code}) after {entries}"
    return Unlisted(json.dumps(["failed", status, text]))


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def reference_of(path: bytes) -> File | None:
    """A local file's reference; None: it is a pipe or a device."""
    try:
        info = os.stat(path)
    except (OSError, ValueError):  # a broken link or a loop of links: its row will say so
        return (store.uri_of_path(path), -1, "")
    if not stat.S_ISREG(info.st_mode):
        return None
    return (store.uri_of_path(path), info.st_size, str(info.st_mtime_ns))


def list_address(text: str) -> Iterator[File]:
    """The reference of one web address. Raises InputError where it does not answer."""
    shown = redact_address(text)
    if shown != text:
        raise InputError(
            f"{shown}: its address holds a signature or key, which is not kept; give one without"
        )
    try:
        found = store.stat(text)
    except OSError as error:
        raise InputError(f"{text}: {error.strerror}; check the address") from None
    yield (text, found.size, found.version)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prefix:
    """A prefix, object or glob in a store.

    Attributes:
      root: `scheme://bucket/`.
      start: how the names of all its objects begin.
      matches: whether a name is among them; None: those below the prefix are.
    """

    root: str
    start: str
    matches: Callable[[str], object] | None

    @property
    def top(self) -> str:
        """What the paths that patterns see are relative to."""
        return self.root + self.start.rpartition("/")[0]

    def files(self, there: Iterable[Stored]) -> Iterator[File]:
        """Those of the objects that are its own."""
        for found in there:
            name = found.uri[len(self.root) :]
            if self.matches(name) if self.matches else _under(name, self.start):
                yield (found.uri, found.size, _version(found))


def prefix_of(text: str) -> Prefix:
    root, pattern = store.split(text)
    magic = GLOB_CHARACTERS.search(pattern)
    if magic:
        matches = re.compile(translate(pattern)).fullmatch
        return Prefix(root=root, start=pattern[: magic.start()], matches=matches)
    is_folder = pattern and not pattern.endswith("/") and not is_object(text)
    # A folder is not its neighbours whose names begin alike.
    return Prefix(root=root, start=pattern + "/" * bool(is_folder), matches=None)


def list_bucket(text: str, selection: Selection) -> Iterator[File]:
    """References of a prefix, object or glob in a store: (uri, size, version), as a stream."""
    prefix = prefix_of(text)
    there = prefix.files(store.store_of(text).list(prefix.root + prefix.start))
    found, before = False, selection.left_out.total()
    for file in chosen_objects(there, prefix.top, selection):
        found = True
        yield file
    if not found and selection.left_out.total() == before:
        raise nothing_there(text)


def nothing_there(text: str) -> InputError:
    return InputError(f"{text}: no objects there; check the prefix")


def chosen_objects(
    there: Iterable[File], top: str, selection: Selection, own: OwnFolders | None = None
) -> Iterator[File]:
    """The objects below a prefix that are listed; the others are counted.

    What is called as an output's or a model's files are comes last, as it may turn out to be one.

    Args:
      there: the objects.
      top: what the paths that patterns see are relative to.
      selection: what is left out.
      own: learns which of this program's folders are there.
    """
    own = own if own is not None else OwnFolders(top)
    waiting: list[File] = []

    def chosen() -> Iterator[File]:
        for file in without_sidecars(
            _not_ignored(there, top, selection, own), lambda file: file[0], selection.left_out
        ):
            if _is_called_as_ours(file, top):
                waiting.append(file)
            else:
                yield file
        # Of ranges that are listed at once, one may come before that with the folder's marker.
        yield from (file for file in waiting if not own.holds(*_parts(file, top)))

    for file in chosen():
        if not selection.chooses or _takes(selection, file[0][len(top) :].lstrip("/")):
            yield file


def _parts(file: File, top: str) -> tuple[list[str], str]:
    """The folders on the way to an object below a prefix, and its name in the last one."""
    *folders, base = file[0][len(top) :].lstrip("/").split("/")
    return folders, base


def _is_called_as_ours(file: File, top: str) -> bool:
    """Whether an output or a model may have it; of what may be millions of images, none."""
    parts = file[0][len(top) :].split("/")
    if is_image_name(parts[-1]):
        return parts[-1] in _PLOTS
    return any(map(is_dataset_entry, parts)) or not _MODEL.isdisjoint(parts)


def _version(found: Stored) -> Version:
    version = Version(found.version)
    version.checksum = found.checksum
    return version


def checksum_column(references: list[File]) -> pa.Array | None:
    """What stores say of the bytes of the files; None: nothing."""
    said = [getattr(version, "checksum", "") or None for _, _, version in references]
    return pa.array(said, pa.string()) if any(said) else None


def _not_ignored(
    files: Iterable[File], top: str, selection: Selection, own: OwnFolders
) -> Iterator[File]:
    """The objects below a prefix that are not ignored by a name on their way, nor our own."""
    for file in files:
        folders, base = _parts(file, top)
        if not base:
            continue  # a folder's own object
        before = len(own.found)
        if own.holds(folders, base):
            selection.left_out["own"] += len(own.found) - before
            continue
        kinds = [kind for kind in map(ignored_kind, (*folders, base)) if kind]
        if kinds:
            selection.left_out[kinds[0]] += 1
        else:
            yield file


class OwnFolders:
    """Outputs, models and trainings below a prefix, as their objects come along in a listing.

    In order of names, what marks an output or a model comes before what else it has; of a training
    the model beside it is asked for, once.
    """

    def __init__(self, top: str) -> None:
        self._top = top.rstrip("/") + "/"
        self.found: set[str] = set()  # paths from the top on; "": the top itself is an output
        self._asked: set[str] = set()

    def holds(self, folders: list[str], base: str) -> bool:
        """Whether an object lies in one of them."""
        for at, name in enumerate(folders):
            if name in _OWN_FOLDERS and (at or name == _OWN_FOLDERS[0]):
                self.found.add("/".join(folders[:at]))
            elif name.endswith(_TRAINING) and name != _TRAINING:
                self._look("/".join(folders[: at + 1]))
        if not self.found:
            return False
        if "" in self.found and is_dataset_entry(folders[0] if folders else base):
            return True
        return any("/".join(folders[:at]) in self.found for at in range(1, len(folders) + 1))

    def _look(self, training: str) -> None:
        if training not in self._asked:
            self._asked.add(training)
            model = self._top + training.removesuffix(_TRAINING)
            with contextlib.suppress(store.StorageError, OSError):
                if store.exists(f"{model}/assets.extra/contract.json"):
                    self.found.add(training)


def is_object(uri: str) -> bool:
    """Whether it is an object's name. Without the right to look, the listing will show."""
    try:
        return store.exists(uri)
    except store.StorageError:
        return False


def _under(name: str, prefix: str) -> bool:
    """Whether an object is the prefix itself or lies in the folder of that name."""
    return not prefix or prefix.endswith("/") or name == prefix or name.startswith(prefix + "/")


def reference_batch(references: list[File]) -> pa.RecordBatch:
    """Files as a batch of `REF_SCHEMA`."""
    uris, sizes, etags = zip(*references, strict=True) if references else ((), (), ())
    failed = [isinstance(etag, Unlisted) for etag in etags]
    containers = [uri if bad else None for uri, bad in zip(uris, failed, strict=True)]
    members = [etag if bad else None for etag, bad in zip(etags, failed, strict=True)]
    known = ["" if bad else etag for etag, bad in zip(etags, failed, strict=True)]
    return pa.RecordBatch.from_arrays(
        [
            pa.array(uris, pa.string()),
            pa.array(sizes, pa.int64()),
            pa.array(known, pa.string()),
            pa.array(containers, pa.string()),
            pa.array(members, pa.string()),
        ],
        schema=REF_SCHEMA,
    )
