"""The process that decoder processes are forked from, as the parent of them all sees it.

It has imported what they need, and does nothing but fork them: each starts in milliseconds, also
the thousandth, in place of one that an image has ended.
"""

from __future__ import annotations

import contextlib
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
_ENDING_SECONDS = 1


class DecodersError(UserError):
    """No decoder process can be started. The message says what it said."""


class Template:
    """Starts with the first fork, and anew where it was ended. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket
        self._ending = ""  # of the last one
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
                    self._end()
                    continue
                if "errno" in answer:
                    raise OSError(answer["errno"], os.strerror(answer["errno"]))
                self._has_forked = True
                return Fork(self, self._control, answer["pid"])
        raise DecodersError(f"no decoder process can work here: each one {self._ending}")

    def _start(self) -> None:
        self._errors = sandbox.anonymous_file("errors")
        self._control, theirs = sandbox.socket_pair()
        with theirs:
            self._process = sandbox.start_child(
                "imagecensus.transforms.decoders.worker", theirs.fileno(), self._errors
            )

    def _answer(self) -> dict[str, Any]:
        """Raises ValueError: it has ended."""
        answer: dict[str, Any] = json.loads(self._control.recv(1 << 12))
        return answer

    def _end(self) -> None:
        """Ends all that it has forked, and itself where it has not ended yet."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            code = process.wait(_ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        assert process.stdin
        process.stdin.close()
        self._control.close()
        with open(self._errors, "rb") as file:
            file.seek(0)
            said = file.read(1 << 16).decode(errors="replace").strip().splitlines()
        self._ending = sandbox.ending(code) + (f" ({said[-1]})" if said else "")

    def code_of(self, fork: Fork) -> int | None:
        """The exit code of a decoder process, or minus its signal; None: it has not ended."""
        with self._lock:
            if self._process is not None and fork.control is self._control:
                try:
                    self._control.sendall(json.dumps({"ended": fork.pid}).encode())
                    code: int | None = self._answer()["code"]
                    return code
                except (OSError, ValueError):
                    self._end()
            fork.lost = f"lost the process that it was forked from, which {self._ending}"
            return -signal.SIGKILL

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
            if self._process is not None:
                self._process.kill()
            self._end()


class Fork:
    """A decoder process.

    Attributes:
      control: the socket of the template that it was forked from.
      returncode: its exit code, or minus its signal; None: it is not known to have ended.
      lost: how its template ended, where nothing else is known of its own end; else empty.
    """

    def __init__(self, template: Template, control: socket.socket, pid: int) -> None:
        self.pid, self.control = pid, control
        self.returncode: int | None = None
        self.lost = ""
        self._template = template
        self._owner = os.getpid()

    def kill(self) -> None:
        """Not in a fork of the process that it serves, which may close its copy of a pool."""
        # Once its end is known, the number may be another process's.
        if self.returncode is None and self._owner == os.getpid():
            with contextlib.suppress(ProcessLookupError):  # it went with its template
                os.kill(self.pid, signal.SIGKILL)

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
