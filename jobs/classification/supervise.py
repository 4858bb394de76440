"""Runs a job in a child process, and again when an image killed it.

A decoder's crash ends its process, and so does that of an archive's reader. The journals name the
suspects, and a rerun handles those apart; this module is the rerun, so that nobody has to get up
at night for one bad file. The parent imports nothing heavy and only waits; it ends no run that a
person wants and restarts none that a person killed.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import sys

from imagecensus.transforms.activity import HUNG_EXIT_CODE
from imagecensus.transforms.decoders import inflight

# SIGKILL is not among them: a person or a machine out of memory sent it.
_CRASHES = {
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGABRT,
    signal.SIGILL,
    signal.SIGFPE,
    signal.SIGALRM,
}
_FORWARDED = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_SENT_BY_TERMINAL = 128  # SI_KERNEL: then the child, in the same process group, has got it too
_PR_SET_PDEATHSIG = 1
_FOLDER_BYTES = 4096
MAX_RESTARTS = 25

_page: mmap.mmap | None = None


def journals_are_in(folder: str) -> None:
    """Called by a supervised job: where its decoders' journals are."""
    if _page is not None:
        name = os.fsencode(folder)[: _FOLDER_BYTES - 1]
        _page[: len(name) + 1] = name + b"\0"


def run(job) -> int:
    """Calls `job() -> exit code` in a child process; returns its exit code, in both processes.

    A child that crashed while images were in its decoders is run again, as long as each crash
    brings new suspects.
    """
    global _page
    if not hasattr(signal, "sigwaitinfo"):  # macOS: a crash ends the run, a rerun resumes it
        return job()
    _page = mmap.mmap(-1, _FOLDER_BYTES)  # shared with the children
    signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED | {signal.SIGCHLD})
    known: frozenset[bytes] = frozenset()
    for restart in range(MAX_RESTARTS + 1):
        child = _fork()
        if not child:
            return job()
        status = _wait_for(child)
        crashed = os.WIFSIGNALED(status) and os.WTERMSIG(status) in _CRASHES
        hung = os.WIFEXITED(status) and os.WEXITSTATUS(status) == HUNG_EXIT_CODE
        if not crashed and not hung:
            break
        folder = os.fsdecode(_page[:].split(b"\0")[0])
        suspects = inflight.read_suspects(folder) if folder else frozenset()
        if suspects <= known or restart == MAX_RESTARTS:
            break
        print(
            f"imagecensus: a decoder {'hung' if hung else 'crashed'}; resuming with"
            f" {len(suspects - known)} suspects (images, archives) handled apart",
            file=sys.stderr,
        )
        known |= suspects
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    number = os.WTERMSIG(status)
    print(
        f"imagecensus: the job died of {signal.Signals(number).name}"
        f"{' (out of memory?)' if number == signal.SIGKILL else ''};"
        " run the same command again to resume",
        file=sys.stderr,
    )
    return 128 + number


def _fork() -> int:
    """Like os.fork; the child dies with its parent."""
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    child = os.fork()
    if not child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED | {signal.SIGCHLD})
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it died before the kernel knew
                os._exit(1)
    return child


def _wait_for(child: int) -> int:
    """Waits for the child, handing on signals, the third as SIGKILL; returns its wait status."""
    received = 0
    while True:
        got = signal.sigwaitinfo(_FORWARDED | {signal.SIGCHLD})
        if got.si_signo != signal.SIGCHLD:
            received += 1
            if received > 2:
                os.kill(child, signal.SIGKILL)
            elif got.si_code != _SENT_BY_TERMINAL:
                os.kill(child, got.si_signo)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
