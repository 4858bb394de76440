"""One rule from what a list, a table or a user names to the uri of an image."""

from __future__ import annotations

import os
import re
import unicodedata

from imagecensus.model_export.common.redact import redact, redact_address
from imagecensus.transforms.inputs.files import File, reference_of
from imagecensus.transforms.storage import store
from imagecensus.transforms.storage.web import policy
from imagecensus.transforms.storage.web.iiif import sized, unsized

_QUOTED = re.compile(r"^(['\"])(.+)\1$", re.DOTALL)  # as Windows copies a path
_NUMBERED = re.compile(r" +\d+$")  # as Caffe writes a class behind a path; MXNet has tabs
_SECRET = re.compile(r"\?|//[^/@]*:[^/@]*@")  # abfs://container@account is none


def resolve(text: str, base: str) -> str:
    """The uri that a text means, as listings and tables write it; nothing is looked up.

    Args:
      text: a path, absolute or relative to `base`; a `file://` uri; or an address of a store.
      base: a folder, here or in a store. "" is the current folder.
    """
    if store.is_bucket(text):
        # Names in buckets are UTF-8; what is not stays visible in the row that finds nothing.
        return text.encode(errors="replace").decode()
    if store.is_web(text):  # one with a secret in it: its row says that it is not read
        address = redact_address(text.encode(errors="replace").decode())
        return sized(address, policy.current().image_side)
    if text.startswith("file:/"):  # file:/a, file:///a and file://localhost/a are the same
        path = store.path_of_uri("file://" + text[5:].removeprefix("//").removeprefix("localhost"))
        return store.uri_of_path(os.path.abspath(path))
    if store.is_address(text):  # of a store that is not read: its row says so
        text = text.encode(errors="replace").decode()
        return redact(text) if _SECRET.search(text) else text
    if store.is_web(base) or (store.is_bucket(base) and not text.startswith("/")):
        return store.resolve(base, text)
    return store.uri_of_path(os.path.abspath(os.fsencode(os.path.join(base, text))))


def locate(text: str, base: str, size: int = -1, version: str = "") -> File:
    """The reference of what a text means. What is not there is listed: its row will say so.

    Blanks and quotes around a name, backslashes in it, and fields beside it that tabs or a blank
    before a number part from it, are believed only where no file has that name; what no file is
    called may be called so in another Unicode form, as on a Mac's disk.

    Args:
      text, base: see `resolve`.
      size, version: as the list says of an object in a store, or of an address (its ETag): that
        version is read, unasked.
    """
    uri = resolve(text, base)
    # A IIIF image of another size than the list names is of another version.
    if store.is_bucket(uri) or (store.is_web(uri) and not unsized(uri)):
        return (uri, size, version)
    if store.is_address(uri) and not uri.startswith("file://"):
        return (uri, -1, "")
    found = reference_of(store.path_of_uri(uri))
    if found is not None and found[1] >= 0:
        return found
    plain = _QUOTED.sub(r"\2", text.strip().lstrip("\ufeff"))  # of a list that was joined to one
    forms = (unicodedata.normalize(form, plain) for form in ("NFC", "NFD"))
    inner = (*reversed(plain.split("\t")), _NUMBERED.sub("", plain))
    for other in (plain, text.replace("\\", "/"), plain.replace("\\", "/"), *forms, *inner):
        if other not in ("", text):
            elsewhere = reference_of(store.path_of_uri(resolve(other, base)))
            if elsewhere is not None and elsewhere[1] >= 0:
                return elsewhere
    return found or (uri, -1, "")
