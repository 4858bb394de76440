"""What a decoder process is given and what it is denied, and the memory it shares with its parent.

It begins in the folder `/` without the current folder on its path of imports, and has bounded
address space, few open files, no terminal and no core dumps. It ends with its parent, whatever
it is busy with: its standard input is a pipe whose other end only the parent holds, and the kernel
signals its closing.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios

from imagecensus.model_export.common.child_process import (
    WORKING_FOLDER,
    child_command,
    child_environment,
)

AREA_BYTES = 4 << 20
NICENESS = 10
OPEN_FILES = 256
_MARK = struct.Struct("<Q")

# What a decoder process is doing, as it marks it in shared memory.
IDLE, READ, OPEN, DECODE, WAIT, LIST = range(6)
MEMORY_EXIT_CODE = 77  # memory was short, perhaps for what earlier images left in it
OUT_OF_MEMORY = (MEMORY_EXIT_CODE, -signal.SIGKILL)  # the kernel sends the latter
TIMED = (OPEN, DECODE)  # what is bounded in time: the reading of archives, and decoding


def start_child(module: str, control: int, errors: int) -> subprocess.Popen[bytes]:
    """Starts a module of the project, confined.

    Args:
      control: descriptor that it inherits; its only argument.
      errors: descriptor of a file that takes what it prints while it starts.
    """
    child = subprocess.Popen(
        child_command(module, str(control)),
        stdin=subprocess.PIPE,
        stdout=errors,
        stderr=errors,
        pass_fds=(control,),
        # NumPy's algebra would take address space for a thread per core, and is of no use there.
        env=child_environment(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1"),
        cwd=WORKING_FOLDER,
        # A Ctrl-C is for the parent to handle. No session of its own: Linux gives each session the
        # same share of the cores, and niceness counts within one only.
        process_group=0,
    )
    # The model has the cores first, and so has what starts meanwhile. Decoding is ahead of the
    # model anyway, as far as the window of batches allows; so it takes what the model leaves, and
    # the two disturb one another less (measured: docs/performance.md). Beside other work that keeps
    # all cores busy it gets a tenth of what that does.
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, child.pid, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)
    return child


def leave_terminal() -> None:
    """In a child: gives up the terminal that the parent was started from."""
    with contextlib.suppress(OSError):  # there is none
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
        fcntl.ioctl(terminal, termios.TIOCNOTTY)
        os.close(terminal)


def end_with_parent() -> None:
    """In a child that leads its group of processes: lets the kernel end them all, those forked
    later too, once the other end of its standard input is closed.
    """
    fcntl.fcntl(0, fcntl.F_SETOWN, -os.getpgrp())
    flags = fcntl.fcntl(0, fcntl.F_GETFL)
    fcntl.fcntl(0, fcntl.F_SETFL, flags | os.O_ASYNC)  # SIGIO, whose default is to end
    with contextlib.suppress(BlockingIOError):  # closed before the kernel was asked
        os.set_blocking(0, False)
        if os.read(0, 1) == b"":
            sys.exit()


def confine(memory: int) -> None:
    """In a child, once all is imported: bounds it, and silences what libraries print."""
    silence = os.open(os.devnull, os.O_RDWR)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    os.close(silence)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    memory = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def ending(code: int) -> str:
    """How a process ended, given its exit code or minus its signal."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"died of {signal.Signals(-code).name}"
    except ValueError:
        return f"died of signal {-code}"


def anonymous_file(name: str) -> int:
    """The descriptor of a file in memory that nothing but its holders can see."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(f"imagecensus-{name}", os.MFD_CLOEXEC)
    handle, path = tempfile.mkstemp(prefix="imagecensus-")
    os.unlink(path)
    return handle


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets whose readers wait, also the child that gets the descriptor of one.

    A process may have a timeout for all its sockets (Beam sets one where it gets credentials of
    Google); then a new one's descriptor does not wait, and a child would end at the first pause.
    """
    pair = socket.socketpair()
    for end in pair:
        end.setblocking(True)
    return pair


class Area:
    """Memory that a decoder process shares with its parent: bytes in, pixels or bytes out."""

    def __init__(self, handle: int, size: int = 0) -> None:
        """Args:
        handle: descriptor of the file behind it.
        size: bytes that it has already; 0: it is made.
        """
        self.handle, self.size = handle, size
        if size:
            self.map = mmap.mmap(handle, size)
        else:
            self.resize(AREA_BYTES)

    def resize(self, size: int) -> None:
        """Gives it room for `size` bytes at least, and no more than needed beyond the usual.

        Raises OSError, ValueError or MemoryError where memory does not suffice.
        """
        size = max(AREA_BYTES, 1 << (size - 1).bit_length())
        if size != self.size:
            os.ftruncate(self.handle, size)
            self.follow(size)

    def follow(self, size: int) -> None:
        """Maps it anew where the other side has resized it."""
        if size != self.size:
            self.map = mmap.mmap(self.handle, size)  # the old one goes with its last user
            self.size = size

    def close(self) -> None:
        self.map.close()
        os.close(self.handle)


class Mark:
    """What a decoder process is doing: a request's number and a stage, in shared memory."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        os.ftruncate(handle, mmap.PAGESIZE)
        self._map = mmap.mmap(handle, mmap.PAGESIZE)

    def set(self, number: int, stage: int) -> None:
        _MARK.pack_into(self._map, 0, number << 8 | stage)

    def get(self) -> tuple[int, int]:
        """(number of the request, stage)."""
        [value] = _MARK.unpack_from(self._map)
        return value >> 8, value & 0xFF

    def close(self) -> None:
        self._map.close()
        os.close(self.handle)
