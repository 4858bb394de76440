"""A decoder process: reads requests from a socket, and answers in plain data.

A message is a line of JSON: a group of requests, and how large the shared memory is that holds
their bytes and takes their pixels. The answer to it is one line as well. Before a request is
worked on it is marked in shared memory: where the process dies or hangs, the parent knows over
what.
"""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import ImageFile

from imagecensus.model_export import preprocess
from imagecensus.model_export.decoding.errors import ImageError
from imagecensus.model_export.preprocess import (
    ImageInfo,
    PreprocessSpec,
    configure_pillow,
    decode_image,
)
from imagecensus.transforms.decoders import sandbox
from imagecensus.transforms.image_ref import ImageRef
from imagecensus.transforms.read_images import read_image

_INFO_FIELDS = tuple(field.name for field in dataclasses.fields(ImageInfo))


class _LargeImageLock:
    """One image of a great many pixels at a time, among all decoder processes of a pool."""

    def __init__(self, handle: int, wait: Callable[[], None], go_on: Callable[[], None]) -> None:
        self._handle, self._wait, self._go_on = handle, wait, go_on

    def __enter__(self) -> None:
        self._wait()
        fcntl.lockf(self._handle, fcntl.LOCK_EX)
        self._go_on()

    def __exit__(self, *_: object) -> None:
        fcntl.lockf(self._handle, fcntl.LOCK_UN)


class Worker:
    """What one decoder process holds."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._mark = sandbox.Mark(config["mark"])
        self._areas = [sandbox.Area(handle, size) for handle, size in config["areas"]]
        self._number = 0
        self._fresh = True
        self._lists: dict[int, Any] = {}
        self._place: Any = None
        preprocess._large_image = _LargeImageLock(  # type: ignore[assignment]
            config["large"],
            lambda: self._mark.set(self._number, sandbox.WAIT),
            lambda: self._mark.set(self._number, sandbox.DECODE),
        )

    def answer(self, group: dict[str, Any]) -> dict[str, Any]:
        """The answer to a group of requests."""
        area = self._areas[group["area"]]
        try:
            area.follow(group["size"])
        except (OSError, ValueError, MemoryError):
            short = {"status": "too_large", "error": "not enough memory to decode", "format": None}
            return {"answers": [short] * len(group["requests"]), "size": group["size"]}
        self._free = group["free"]  # where answers of bytes go
        answers = [self._answer_one(request, area) for request in group["requests"]]
        return {"answers": answers, "size": area.size}

    def _answer_one(self, request: dict[str, Any], area: sandbox.Area) -> dict[str, Any]:
        self._number = request["number"]
        try:
            if request["call"] == "decode":
                return self._decode(request, area)
            if request["call"] == "read":
                self._mark.set(self._number, sandbox.OPEN)
                start = _clocks()
                data = self._read(request, area)
                return {"read": _since(start), **self._give(data, area)}
            self._mark.set(self._number, sandbox.LIST)
            return self._list(request, area)
        except ImageError as error:
            if isinstance(error.__cause__, MemoryError) and not self._fresh:
                os._exit(sandbox.MEMORY_EXIT_CODE)
            return {
                "status": error.status, "error": str(error), "format": error.image_format,
                **getattr(error, "spent", {}),
            }  # fmt: skip
        except MemoryError:
            if not self._fresh:
                os._exit(sandbox.MEMORY_EXIT_CODE)
            return {"status": "too_large", "error": "not enough memory to read", "format": None}
        finally:
            self._fresh = False
            self._mark.set(self._number, sandbox.IDLE)

    def _decode(self, request: dict[str, Any], area: sandbox.Area) -> dict[str, Any]:
        spent: dict[str, Any] = {}
        try:
            if request["ref"]:
                start = _clocks()
                inside = request["ref"][3] is not None
                self._mark.set(self._number, sandbox.OPEN if inside else sandbox.READ)
                data = self._read(request, area)
                spent["read"] = _since(start)
            else:
                data = _slice(area, request["data"])
            spent["bytes"] = len(data)
            self._mark.set(self._number, sandbox.DECODE)
            spec, how = _settings(request["how"])
            ImageFile.LOAD_TRUNCATED_IMAGES = how["lenient"]
            first, count = request["pixels"], spec.height * spec.width * 3
            out = np.frombuffer(area.map, np.uint8, count, first).reshape(spec.shape)
            start = _clocks()
            try:
                info = decode_image(data, spec, out, how["max_pixels"], how["max_side"])
            finally:
                spent["decode"] = _since(start)
        except ImageError as error:
            error.spent = spent  # type: ignore[attr-defined]
            raise
        return {"info": {name: getattr(info, name) for name in _INFO_FIELDS}, **spent}

    def _read(self, request: dict[str, Any], area: sandbox.Area) -> bytes:
        ref = ImageRef(**dict(zip(ImageRef.__slots__, request["ref"], strict=True)))
        place = None
        if ref.container is not None:
            from imagecensus.transforms.archives.reading import Place

            self._place = self._place or Place()
            place = self._place
        return read_image(
            ref.uri, ref.size, ref.etag, request["max_bytes"], ref.container, ref.member, place
        )

    def _list(self, request: dict[str, Any], area: sandbox.Area) -> dict[str, Any]:
        from imagecensus.transforms.decoders import look_into

        found = look_into.answer(request["call"], request["arguments"], self._lists)
        return self._give(found, area)

    def _give(self, data: bytes, area: sandbox.Area) -> dict[str, Any]:
        end = self._free + len(data)
        if end > area.size:
            try:
                area.resize(end)
            except (OSError, ValueError):
                raise MemoryError from None
        area.map[self._free : end] = data
        given = {"data": [self._free, len(data)]}
        self._free = end
        return given


def _slice(area: sandbox.Area, place: list[int]) -> bytes:
    first, length = place
    return area.map[first : first + length]


@functools.lru_cache(maxsize=8)
def _settings(text: str) -> tuple[PreprocessSpec, dict[str, Any]]:
    how = json.loads(text)
    return PreprocessSpec.from_json(how["spec"]), how


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(start: tuple[float, float]) -> list[float]:
    """Wall seconds and CPU seconds."""
    return [time.perf_counter() - start[0], time.process_time() - start[1]]


def main() -> None:
    """Answers until the parent closes the socket."""
    sandbox.end_with_parent()
    config = json.loads(sys.argv[1])
    configure_pillow()
    connection = socket.socket(fileno=config["socket"])
    worker = Worker(config)
    sandbox.confine(config["memory"])
    connection.sendall(b'{"ready": true}\n')
    with connection.makefile("rb") as lines:
        for line in lines:
            connection.sendall(json.dumps(worker.answer(json.loads(line))).encode() + b"\n")


if __name__ == "__main__":
    main()
