"""One decoder process as its parent sees it: what is sent, what comes back, how long it takes."""

from __future__ import annotations

import collections
import dataclasses
import json
import time
import typing
from typing import Any

import numpy as np

from imagecensus.model_export.common import fault_injection
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.decoding.errors import ImageError
from imagecensus.model_export.preprocess import ImageInfo
from imagecensus.transforms import activity
from imagecensus.transforms.decoders import sandbox
from imagecensus.transforms.decoders.requests import Answer, Request
from imagecensus.transforms.decoders.template import Template
from imagecensus.transforms.records import Status

AHEAD = 2  # groups sent and not answered yet, each with memory of its own
_LOOK_SECONDS = 0.25
_DYING_SECONDS = 10
_INFO_TYPES = typing.get_type_hints(ImageInfo)  # in the order of the fields
_STATUSES = frozenset(status.value for status in Status)
_STAGES = {
    sandbox.IDLE: "start of a decoder", sandbox.READ: "read", sandbox.OPEN: "read",
    sandbox.DECODE: "decode", sandbox.WAIT: "wait to decode", sandbox.LIST: "look into",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Death:
    """How a child ended.

    Attributes:
      code: its exit code, or minus its signal.
      stage: what it was doing with `fault`.
      late: it was ended, as it took too long.
      fault: the request that it had begun.
      left: all others that it had been sent and had not answered.
      lost: how its template ended, where nothing else is known of its own end; else empty.
    """

    code: int
    stage: int
    late: bool
    fault: Request | None
    left: list[Request]
    lost: str


class Child:
    """A decoder process. Used by one thread.

    Attributes:
      sent: the groups that it has not answered yet, at most `AHEAD`, each with its area.
    """

    def __init__(self, template: Template, memory: int, large: int) -> None:
        """Args:
        template: what it is forked from.
        memory: bytes of its address space.
        large: descriptor of the file that processes lock for images of very many pixels.
        """
        self._areas = [sandbox.Area(sandbox.anonymous_file("area")) for _ in range(AHEAD)]
        self._mark = sandbox.Mark(sandbox.anonymous_file("mark"))
        self._next = 0  # area
        self._received = b""
        self._late = 0  # number of the request that took too long
        self._looked: tuple[int, int] = (0, sandbox.IDLE)
        self._age, self._reported = 0.0, 0
        self.sent: collections.deque[tuple[int, list[Request]]] = collections.deque()
        self._socket, theirs = sandbox.socket_pair()
        self._socket.settimeout(_LOOK_SECONDS)
        handles = [*(area.handle for area in self._areas), self._mark.handle, large]
        config = {"memory": memory, "areas": [area.size for area in self._areas]}
        try:
            with theirs:
                self._process = template.fork(config, [*handles, theirs.fileno()])
        except BaseException:
            self._close_shared()
            raise

    def send(self, group: list[Request]) -> None:
        """Sends requests; `receive` gets their answers.

        Raises:
          MemoryError: their bytes have no room.
          OSError: the child died.
        """
        area = self._areas[self._next]
        configs: dict[str, int] = {}
        said = [_fields_of(request, configs) for request in group]
        size = sum(len(request.data or b"") for request in group)
        pixels = sum(request.out.nbytes for request in group if request.out is not None)
        try:
            area.resize(size + pixels)
        except (OSError, ValueError):
            raise MemoryError from None
        at = 0
        for request, fields in zip(group, said, strict=True):
            if request.out is not None:
                request.pixels = fields["pixels"] = at
                at += request.out.nbytes
        for request, fields in zip(group, said, strict=True):
            if request.data is not None:
                area.map[at : at + len(request.data)] = request.data
                fields["data"] = (at, len(request.data))
                at += len(request.data)
        index, self._next = self._next, (self._next + 1) % AHEAD
        message = {"area": index, "size": area.size, "free": at, "configs": list(configs)}
        message["requests"] = said
        line = json.dumps(message).encode() + b"\n"
        self.sent.append((index, group))
        self._socket.sendall(line)

    def receive(self) -> list[tuple[Request, Answer]] | None:
        """The answers to the group that was sent first, or None: the child died.

        Whatever takes too long ends the child.

        Raises:
          ValueError, KeyError, TypeError, AttributeError or IndexError: no answer of a sound child.
        """
        while True:
            line = self._line()
            if line is None:
                return None
            said = json.loads(line)
            index, group = self.sent[0]
            area = self._areas[index]
            area.follow(int(said["size"]))
            answers = [
                (request, _answer(request, one, area))
                for request, one in zip(group, said["answers"], strict=True)
            ]
            self.sent.popleft()
            return answers

    def _line(self) -> bytes | None:
        """The next line of the child; None: it died."""
        looked = time.monotonic()
        while b"\n" not in self._received:
            try:
                got = self._socket.recv(1 << 16)
            except TimeoutError:
                now = time.monotonic()
                self._look(now - looked)
                looked = now
                continue
            except OSError:
                return None
            if not got:
                return None
            self._received += got
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _look(self, elapsed: float) -> None:
        """Sees how long the child has been busy with one thing, and ends it where that is too long.

        Counted in looks and not by the clock: where a process was stopped or a machine slept,
        nothing has hung.
        """
        mark = self._mark.get()
        if mark != self._looked:
            self._looked, self._age, self._reported = mark, 0.0, 0
            return
        self._age += min(elapsed, 2 * _LOOK_SECONDS)
        number, stage = mark
        request = self._find(number)
        if request is None:
            return
        if stage in sandbox.TIMED and request.seconds and self._age > request.seconds:
            self._late = number
            self.kill()
        minutes = int(self._age // activity.STUCK_SECONDS)
        if minutes > self._reported:
            self._reported = minutes
            activity.log_waiting(_STAGES[stage], request.subject, self._age)

    def _find(self, number: int) -> Request | None:
        return next((one for _, group in self.sent for one in group if one.number == number), None)

    def kill(self) -> None:
        self._process.kill()

    def bury(self) -> Death:
        """What is left of it, once its socket is closed."""
        code = self._process.wait(_DYING_SECONDS)  # where it only closed its socket, it is ended
        number, stage = self._mark.get()
        fault = self._find(number) if stage != sandbox.IDLE else None
        left = [one for _, group in self.sent for one in group if one is not fault]
        self.sent.clear()
        return Death(
            code=code,
            stage=stage,
            late=number == self._late,
            fault=fault,
            left=left,
            lost=self._process.lost,
        )

    def close(self) -> None:
        """Ends it, and gives back what was shared with it."""
        self._process.kill()
        self._process.wait(_DYING_SECONDS)
        self._close_shared()

    def _close_shared(self) -> None:
        self._socket.close()
        for area in self._areas:
            area.close()
        self._mark.close()


def _fields_of(request: Request, configs: dict[str, int]) -> dict[str, Any]:
    """A request as the child takes it; `configs` numbers those of its message."""
    fields: dict[str, Any] = {"number": request.number, "call": request.call, "ref": None}
    if request.ref is not None:
        if request.data is None:
            fault_injection.reached("read")
        ref = request.ref
        fields["ref"] = (ref.uri, ref.size, ref.etag, ref.container, ref.member)
        fields["max_bytes"] = request.max_bytes
    if request.call == "decode":
        fault_injection.reached("decode")
        fields["config"] = configs.setdefault(request.config, len(configs))
    if request.arguments:
        fields["arguments"] = request.arguments
    return fields


def _answer(request: Request, said: dict[str, Any], area: sandbox.Area) -> Answer:
    """The child's answer, which is believed in nothing but its pixels and its words."""
    spent: dict[str, tuple[float, float]] = {
        stage: _two_numbers(said[stage]) for stage in ("read", "decode") if stage in said
    }
    size = int(said["bytes"]) if "bytes" in said else None
    xxh128 = said.get("xxh128")
    if not isinstance(xxh128, str | None):
        raise TypeError("xxh128")
    if "status" in said:
        status, text, name = said["status"], said["error"], said["format"]
        if status not in _STATUSES or not isinstance(text, str):
            raise ValueError(status)
        if name is not None and not isinstance(name, str):
            raise TypeError(name)
        error = ImageError(status, text, name)
        return Answer(error=error, size=size, xxh128=xxh128, spent=spent)
    if "refused" in said:
        return Answer(error=UserError(str(said["refused"])), spent=spent)
    if "defect" in said:
        return Answer(error=RuntimeError(f"{request.subject}: {said['defect']}"), spent=spent)
    if request.out is None:
        first, length = map(int, said["data"])
        if first < 0 or length < 0 or first + length > area.size:
            raise IndexError(first)
        return Answer(data=area.map[first : first + length], size=length, spent=spent)
    info = ImageInfo(**dict(zip(_INFO_TYPES, said["info"], strict=True)))
    if not all(isinstance(getattr(info, name), kind) for name, kind in _INFO_TYPES.items()):
        raise TypeError("info")
    out = request.out
    out[...] = np.frombuffer(area.map, np.uint8, out.size, request.pixels).reshape(out.shape)
    return Answer(info=info, size=size, xxh128=xxh128, spent=spent)


def _two_numbers(said: list[float]) -> tuple[float, float]:
    wall, cpu = said
    return float(wall), float(cpu)
