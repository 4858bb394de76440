"""The process that decoder processes are forked from, as the parent of them all sees it.

It has imported what they need, and does nothing but fork them: each starts in milliseconds, also
the thousandth, in place of one that an image has ended.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import Any

from imagecensus.model_export.common.errors import UserError
from imagecensus.transforms.decoders import sandbox

_STARTS = 3  # so many times in a row it may end before it has forked anything
_POLL_SECONDS = 0.001


class DecodersError(UserError):
    """No decoder process can be started. The message says what it said."""


class Template:
    """Starts with the first fork, and anew where it was ended. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket
        self._has_forked = self._closed = False

    def fork(self, config: dict[str, Any], handles: Sequence[int]) -> Fork:
        """A new decoder process.

        Args:
          config: of `worker.serve`.
          handles: the descriptors that it gets.

        Raises:
          DecodersError: the template ends before it forks anything.
          OSError: there is no memory or no process for it.
          RuntimeError: the pool is closed.
        """
        with self._lock:
            for _ in range(_STARTS):
                if self._closed:
                    raise RuntimeError("the decoder processes were closed")
                if self._process is None:
                    self._start()
                try:
                    socket.send_fds(self._control, [json.dumps(config).encode()], handles)
                    answer = self._answer()
                except (OSError, ValueError):
                    said = self._end()
                    continue
                if "errno" in answer:
                    raise OSError(answer["errno"], os.strerror(answer["errno"]))
                self._has_forked = True
                return Fork(self, self._control, answer["pid"])
        raise DecodersError(f"no decoder process can work here: each one {said}")

    def _start(self) -> None:
        self._errors = sandbox.anonymous_file("errors")
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = sandbox.start_child(
                "imagecensus.transforms.decoders.worker", theirs.fileno(), self._errors
            )

    def _answer(self) -> dict[str, Any]:
        """Raises ValueError: it has ended."""
        answer: dict[str, Any] = json.loads(self._control.recv(1 << 12))
        return answer

    def _end(self) -> str:
        """Ends it and all that it has forked; how it ended, and what it said."""
        process, self._process = self._process, None
        if process is None:
            return ""
        process.kill()
        code = process.wait()
        assert process.stdin
        process.stdin.close()
        self._control.close()
        with open(self._errors, "rb") as file:
            file.seek(0)
            said = file.read(1 << 16).decode(errors="replace").strip().splitlines()
        return sandbox.ending(code) + (f" ({said[-1]})" if said else "")

    def code_of(self, fork: Fork) -> int | None:
        """The exit code of a decoder process, or minus its signal; None: it has not ended."""
        with self._lock:
            if self._process is None or fork.control is not self._control:
                return -signal.SIGKILL  # it ended with its template
            try:
                self._control.sendall(json.dumps({"ended": fork.pid}).encode())
                code: int | None = self._answer()["code"]
            except (OSError, ValueError):
                self._end()
                return -signal.SIGKILL
            return code

    def refuse(self) -> None:
        """Forks no more, and ends a start of which nothing has come yet."""
        self._closed = True
        process = self._process
        if process is not None and not self._has_forked:
            process.kill()

    def close(self) -> None:
        """Ends it."""
        self._closed = True
        with self._lock:
            self._end()


class Fork:
    """A decoder process.

    Attributes:
      control: the socket of the template that it was forked from.
      returncode: its exit code, or minus its signal; None: it is not known to have ended.
    """

    def __init__(self, template: Template, control: socket.socket, pid: int) -> None:
        self.pid, self.control = pid, control
        self.returncode: int | None = None
        self._template = template

    def kill(self) -> None:
        if self.returncode is None:  # else the number may be another process's by now
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:  # it went with its template
                self.returncode = -signal.SIGKILL

    def wait(self, seconds: float) -> int:
        """Its exit code, or minus its signal; whatever has not ended by then is killed."""
        until = time.monotonic() + seconds
        while self.returncode is None:
            self.returncode = self._template.code_of(self)
            if self.returncode is None:
                if time.monotonic() >= until:
                    self.kill()
                time.sleep(_POLL_SECONDS)
        return self.returncode
