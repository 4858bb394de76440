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
import operator
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import xxhash
from PIL import ImageFile

from imagecensus.model_export import preprocess
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.decoding import pages
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

_values_of = operator.attrgetter(*(field.name for field in dataclasses.fields(ImageInfo)))
_HANDLES = 8  # at most, in one message of the parent
MORE_MEMORY = " (raise it with --decode-memory)"


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

    def __init__(self, *, areas: list[tuple[int, int]], mark: int, large: int) -> None:
        """Args:
        areas: the descriptor and the bytes of each.
        mark: descriptor of its memory.
        large: descriptor of the file that is locked for images of very many pixels.
        """
        self._mark = sandbox.Mark(mark)
        self._areas = [sandbox.Area(handle, size) for handle, size in areas]
        self._number = 0
        self._fresh = True
        self._lists: Any = None
        self._place: Any = None
        preprocess._large_image = _LargeImageLock(  # type: ignore[assignment]
            large,
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
        self._configs = group["configs"]
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
            text = str(error)
            if isinstance(error.__cause__, MemoryError):
                self._begin_anew_if_used()
                text += MORE_MEMORY
            failed = {"status": error.status, "error": text, "format": error.image_format}
            return {**failed, **getattr(error, "spent", {})}
        except MemoryError:
            self._begin_anew_if_used()
            text = "not enough memory to read" + MORE_MEMORY
            return {"status": "too_large", "error": text, "format": None}
        except UserError as error:
            return {"refused": str(error)}
        except Exception as error:
            return {"defect": f"{type(error).__name__}: {error}"}
        finally:
            self._fresh = False
            self._mark.set(self._number, sandbox.IDLE)

    def _begin_anew_if_used(self) -> None:
        """Memory was short: where earlier images may have taken it, a new process tries again."""
        if not self._fresh:
            os._exit(sandbox.MEMORY_EXIT_CODE)

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
            spent["bytes"] = pages.size_of(data)
            self._mark.set(self._number, sandbox.DECODE)
            spec, config = _parsed(self._configs[request["config"]])
            if config["xxh128"]:
                spent["xxh128"] = xxhash.xxh3_128_hexdigest(data)
            ImageFile.LOAD_TRUNCATED_IMAGES = config["lenient"]
            first, count = request["pixels"], spec.height * spec.width * 3
            out = np.frombuffer(area.map, np.uint8, count, first).reshape(spec.shape)
            start = _clocks()
            try:
                limits = config["max_pixels"], config["max_side"]
                info = decode_image(data, spec, out, *limits, gps=config["gps"])
            finally:
                spent["decode"] = _since(start)
        except ImageError as error:
            error.spent = spent  # type: ignore[attr-defined]
            raise
        return {"info": _values_of(info), **spent}

    def _read(self, request: dict[str, Any], area: sandbox.Area) -> bytes:
        ref = ImageRef(**dict(zip(ImageRef.__slots__, request["ref"], strict=True)))
        if ref.container is None:
            return read_image(ref, request["max_bytes"])
        # Most children meet no archive, and start in half the time without Arrow.
        from imagecensus.transforms.archives import reading

        if "data" in request:
            return reading.unpack(ref.member or "", _slice(area, request["data"]))
        self._place = self._place or reading.Place()
        return read_image(ref, request["max_bytes"], self._place)

    def _list(self, request: dict[str, Any], area: sandbox.Area) -> dict[str, Any]:
        from imagecensus.transforms.decoders import questions

        self._lists = self._lists or questions.Lists()
        return self._give(self._lists.answer(request["call"], request["arguments"]), area)

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
def _parsed(text: str) -> tuple[PreprocessSpec, dict[str, Any]]:
    config = json.loads(text)
    return PreprocessSpec.from_json(config["spec"]), config


def _plain(value: Any) -> Any:
    """A number of NumPy's as JSON has it."""
    return value.item()


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(start: tuple[float, float]) -> list[float]:
    """Wall seconds and CPU seconds."""
    return [time.perf_counter() - start[0], time.process_time() - start[1]]


def main() -> None:
    """Forks decoder processes as the parent asks, and tells how they ended, until that closes the
    socket.
    """
    sandbox.end_with_parent()
    sandbox.leave_terminal()
    configure_pillow()
    control = socket.socket(fileno=int(sys.argv[1]))
    while True:
        message, handles, _, _ = socket.recv_fds(control, 1 << 12, _HANDLES)
        if not message:
            return
        asked = json.loads(message)
        answer = _fork(control, asked, handles) if handles else {"code": _code_of(asked["ended"])}
        for handle in handles:
            os.close(handle)
        control.sendall(json.dumps(answer).encode())


def _fork(control: socket.socket, config: dict[str, Any], handles: list[int]) -> dict[str, int]:
    """The number of a new decoder process, or of the error. Nothing else runs in this one."""
    try:
        pid = os.fork()
    except OSError as error:
        return {"errno": error.errno or 0}
    if pid:
        return {"pid": pid}
    code = 1
    try:
        control.close()
        serve(config, handles)
        code = 0
    finally:
        os._exit(code)


def _code_of(pid: int) -> int | None:
    """The exit code of a decoder process, or minus its signal; None: it has not ended."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def serve(config: dict[str, Any], handles: list[int]) -> None:
    """Answers until the parent closes the socket.

    Args:
      config: "memory", bytes of address space; "areas", their bytes.
      handles: descriptors of the areas, of the mark, of the file that is locked for images of very
        many pixels, and of the socket.
    """
    *areas, mark, large, connected = handles
    connection = socket.socket(fileno=connected)
    worker = Worker(areas=list(zip(areas, config["areas"], strict=True)), mark=mark, large=large)
    sandbox.confine(config["memory"])
    with connection.makefile("rb") as lines:
        for line in lines:
            answer = json.dumps(worker.answer(json.loads(line)), default=_plain)
            connection.sendall(answer.encode() + b"\n")


if __name__ == "__main__":
    main()
