"""Looks into packed archives in a process of its own, bounded in memory and time.

For archives that were being listed or read when a process died: Arrow and tfx-bsl are C++ and meet
whatever bytes people have. Whatever those do to the child, the parent gets an answer or a typed
reason; where a child died, the next question starts another one.

A question is one line of JSON, the name of a function of `archives` or `read_image` and its
arguments. An answer is frames: a line of JSON with the number of bytes that follow and whether more
frames come, or with an error.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pyarrow as pa

from imagecensus.model_export.common.child_process import WORKING_FOLDER, child_command
from imagecensus.model_export.image_formats import ImageError
from imagecensus.transforms.decoders.isolate import (
    DECODE_MEMORY,
    DECODE_SECONDS,
    begin_child,
    ending,
    reader_environment,
)


class ReaderDied(Exception):
    """The child died over a question. The message says of what."""


class Reader:
    """A child that is asked one thing at a time, from any thread."""

    def __init__(self, seconds: float = DECODE_SECONDS, memory: int = DECODE_MEMORY):
        """Args:
        seconds: of wall clock, for one image.
        memory: bytes of address space the child may have.
        """
        self._seconds, self._memory = seconds, memory
        self._child: subprocess.Popen | None = None
        self._lock = threading.Lock()
        self._fatal: dict[tuple, str] = {}

    def read(
        self, uri: str, size: int, etag: str, max_bytes: int, container: str, member: str
    ) -> bytes:
        """Like `read_image`, of a member of an archive.

        Raises:
          ImageError: also `read_error` where the child died of it. Rows of a Parquet row group
            are read front to back: what follows the fatal one is not tried.
        """
        kind, *where = json.loads(member)
        place = (container, kind, where[0]) if kind == "parquet" else (uri,)
        if place in self._fatal:
            raise ImageError("read_error", self._fatal[place])
        try:
            [data] = self.ask("read_image", uri, size, etag, max_bytes, container, member)
        except ReaderDied as death:
            self._fatal[place] = str(death)
            raise ImageError("read_error", str(death)) from None
        return data

    def ask(self, call: str, *arguments) -> Iterator[bytes]:
        """The frames of an answer. Raises ReaderDied, or the ImageError that the child raised."""
        with self._lock:
            child = self._living_child()
            try:
                question = json.dumps([call, *arguments]).encode() + b"\n"
                child.stdin.write(question)
                child.stdin.flush()
                more = True
                while more:
                    head = json.loads(child.stdout.readline() or "null")
                    if head is None:
                        raise BrokenPipeError
                    if "status" in head:
                        raise ImageError(head["status"], head["error"])
                    data = child.stdout.read(head["bytes"])
                    if len(data) < head["bytes"]:
                        raise BrokenPipeError
                    more = head["more"]
                    yield data
            except (OSError, ValueError):
                self.close()
                raise ReaderDied(_death(child.returncode, self._seconds)) from None
            except GeneratorExit:  # nobody wants the rest, which the child would still say
                self.close()
                raise

    def close(self) -> None:
        if self._child:
            self._child.stdin.close()
            try:
                self._child.wait(1)  # it may be dying of itself: that is what one wants to know
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
            self._child.stdout.close()
            self._child = None

    def _living_child(self) -> subprocess.Popen:
        if self._child is None:
            bounds = [str(self._seconds), str(self._memory)]
            self._child = subprocess.Popen(
                child_command("imagecensus.transforms.decoders.isolate_reading", *bounds),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=reader_environment(),
                cwd=WORKING_FOLDER,
            )
        return self._child


def _death(code: int, seconds: float) -> str:
    if code == -signal.SIGALRM:
        return f"not read from its archive within {seconds:g} s (raise it with --decode-seconds)"
    return f"the reader of its archive {ending(code)}"


def _child() -> None:
    """Answers questions on standard input until it ends."""
    from imagecensus.transforms.archives import listing
    from imagecensus.transforms.archives.reading import Place
    from imagecensus.transforms.read_images import read_image

    seconds, answer = float(sys.argv[1]), begin_child(int(sys.argv[2]))
    place = Place()

    def say(data: bytes, more: bool = False) -> None:
        answer.write(json.dumps({"bytes": len(data), "more": more}).encode() + b"\n" + data)
        answer.flush()

    for line in sys.stdin.buffer:
        call, *arguments = json.loads(line)
        if call == "read_image":
            signal.setitimer(signal.ITIMER_REAL, seconds)
            try:
                say(read_image(*arguments, place))
            except ImageError as error:
                said = {"status": error.status, "error": str(error)}
                answer.write(json.dumps(said).encode() + b"\n")
                answer.flush()
            signal.setitimer(signal.ITIMER_REAL, 0)
            continue
        if call == "list_archive":
            *arguments, columns, max_members = arguments
            columns = pa.ipc.open_stream(bytes.fromhex(columns)).schema
            for batch in listing.list_archive(*arguments, columns, max_members):
                say(packed(batch.schema, [batch]), more=True)
            say(b"")
            continue
        found = getattr(listing, call)(*arguments)
        say(packed(found) if isinstance(found, pa.Schema) else json.dumps(found).encode())


def packed(schema: pa.Schema, batches=()) -> bytes:
    """A schema, with record batches of it, as bytes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


if __name__ == "__main__":
    _child()
