"""IIIF Presentation manifests and collections, versions 2 and 3, as lists of images."""

from __future__ import annotations

import json
import os
import re
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from imagecensus.transforms.inputs.files import CHUNK, InputError, reference_batch
from imagecensus.transforms.records import REF_SCHEMA
from imagecensus.transforms.storage import store
from imagecensus.transforms.storage.web import policy
from imagecensus.transforms.storage.web.iiif import sized

MAX_MANIFESTS = 100_000
_MAX_BYTES = 64 << 20
_IIIF = re.compile(rb"iiif\.io/api/presentation")
COLUMNS = [pa.field("iiif_manifest", pa.string()), pa.field("iiif_label", pa.string())]
Image = tuple[str, str, str, str]  # uri, manifest, label, why it is a failed row ("": it is none)


def is_iiif(text: str) -> bool:
    """Whether an input is a IIIF manifest or collection: by its name, and JSON by its content."""
    if store.is_web(text):
        path = urllib.parse.urlsplit(text).path.lower()
        if path.endswith("manifest"):
            return True
        named = path.endswith(".json") and not path.endswith("/info.json")
    else:
        named = text.lower().endswith(".json")
    if not named:
        return False
    try:
        with store.local_copy(text) as path, open(path, "rb") as file:
            return bool(_IIIF.search(file.read(_MAX_BYTES)))
    except OSError:  # reading it as a list will say so
        return False


def list_iiif(location: str) -> Iterator[pa.RecordBatch]:
    """References of the images of a manifest, or of all manifests of a collection.

    With the columns `iiif_manifest` and `iiif_label`, the label of the image's page. A manifest of
    a collection that cannot be read is a failed row. Raises InputError where the first cannot be.
    """
    images: list[Image] = []
    for image in _images(location):
        images.append(image)
        if len(images) == CHUNK:
            yield _batch(images)
            images = []
    yield _batch(images)


def _batch(images: list[Image]) -> pa.RecordBatch:
    refs = reference_batch([(uri, -1, "") for uri, *_ in images])
    failures = [json.dumps(["failed", "read_error", why]) if why else None for *_, why in images]
    columns = dict(zip(refs.schema.names, refs.columns, strict=True))
    columns["member"] = pa.array(failures, pa.string())
    containers = [uri if why else None for uri, _, _, why in images]
    columns["container"] = pa.array(containers, pa.string())
    values = [pa.array([image[at] for image in images], pa.string()) for at in (1, 2)]
    return pa.RecordBatch.from_arrays(
        [*columns.values(), *values], schema=pa.schema([*REF_SCHEMA, *COLUMNS])
    )


def _images(first: str) -> Iterator[Image]:
    """Depth first; each manifest once, so that collections that name each other end."""
    pending, seen = [first], {first}
    while pending:
        location = pending.pop()
        try:
            document = _read(location)
        except (InputError, OSError) as error:
            if location == first:
                if isinstance(error, InputError):
                    raise
                raise InputError(f"{location}: {error.strerror}; check the address") from None
            reason = getattr(error, "strerror", None) or str(error)
            yield location, location, "", f"the manifest cannot be read: {reason}"
            continue
        found = [uri for uri in _manifests(document) if uri not in seen]
        seen.update(found)
        if len(seen) > MAX_MANIFESTS:
            raise InputError(f"{first}: names more than {MAX_MANIFESTS:,} manifests; list a part")
        pending.extend(reversed(found))
        for uri, label in _pages(document):
            yield sized(uri, policy.current().image_side), location, label, ""


def _read(location: str) -> dict[str, Any]:
    if not store.is_remote(location):
        location = os.fspath(location)
    data = store.read(location)
    if len(data) > _MAX_BYTES:
        raise InputError(f"{location}: larger than a IIIF manifest may be ({_MAX_BYTES:,} bytes)")
    try:
        document: dict[str, Any] = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{location}: is no JSON: {error}") from None
    context = json.dumps(document.get("@context", "")) if isinstance(document, dict) else ""
    if "iiif.io/api/presentation" not in context:
        raise InputError(
            f"{location}: is no IIIF manifest: its @context names no iiif.io/api/presentation;"
            " lists in JSON have one image a line and end in .jsonl"
        )
    return document


def _manifests(document: dict[str, Any]) -> list[str]:
    """What a collection names."""
    keys = ("manifests", "collections", "members")
    named = [item for key in keys for item in _list(document, key)]
    named += [
        item for item in _list(document, "items") if item.get("type") in ("Manifest", "Collection")
    ]
    return [uri for item in named if store.is_web(uri := _id(item))]


def _pages(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(uri, label) of each image of a manifest."""
    for sequence in _list(document, "sequences"):
        for canvas in _list(sequence, "canvases"):
            for annotation in _list(canvas, "images"):
                yield from _image(annotation.get("resource"), canvas)
    for canvas in _list(document, "items"):
        for page in _list(canvas, "items") if canvas.get("type") == "Canvas" else []:
            for annotation in _list(page, "items"):
                if "painting" in annotation.get("motivation", "painting"):
                    bodies = annotation.get("body")
                    for body in bodies if isinstance(bodies, list) else [bodies]:
                        yield from _image(body, canvas)


def _image(body: Any, canvas: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The image of an annotation's body: of a choice, the first."""
    if not isinstance(body, dict):
        return
    choice = body.get("default") or next(iter(_list(body, "items")), None)
    if isinstance(choice, dict):
        body = choice
    if body.get("type", body.get("@type", "Image")) not in ("Image", "dctypes:Image"):
        return
    services = body.get("service")
    for service in services if isinstance(services, list) else [services]:
        if isinstance(service, dict) and store.is_web(_id(service)):
            kind = f"{service.get('type', '')} {service.get('@context', '')}"
            size = "max" if "ImageService3" in kind or "/image/3" in kind else "full"
            yield f"{_id(service).rstrip('/')}/full/{size}/0/default.jpg", _label(canvas)
            return
    if store.is_web(_id(body)):
        yield _id(body), _label(canvas)


def _list(document: Any, key: str) -> list[dict[str, Any]]:
    value = document.get(key) if isinstance(document, dict) else None
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _id(item: dict[str, Any]) -> str:
    value = item.get("id") or item.get("@id")
    return value if isinstance(value, str) else ""


def _label(canvas: dict[str, Any]) -> str:
    """The first text of a label: a string, a list, {"@value": …}, or {"en": […]}."""
    label = canvas.get("label", "")
    for _ in range(4):
        if isinstance(label, list):
            label = label[0] if label else ""
        elif isinstance(label, dict):
            label = label.get("@value") or next(iter(label.values()), "")
    return label if isinstance(label, str) else ""
