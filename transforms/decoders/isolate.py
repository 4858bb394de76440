"""Decodes one image in a process of its own, bounded in memory and time.

For images that were in a decoder when its process died, and to draw what there is of those that
failed. Whatever they do to the child, the parent gets pixels or a typed reason. The pixels are
those of `decode_image`: the child calls it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
from typing import BinaryIO

import numpy as np

from imagecensus.model_export.common.child_process import (
    WORKING_FOLDER,
    child_command,
    child_environment,
)
from imagecensus.model_export.preprocess import MAX_SIDE, ImageError, ImageInfo, PreprocessSpec

DECODE_SECONDS = 60
DECODE_MEMORY = 4 << 30
_STARTING_SECONDS = 60  # of a child on a busy machine, before its alarm is set


def decode_isolated(
    data: bytes,
    spec: PreprocessSpec,
    out: np.ndarray,
    max_pixels: int,
    seconds: float = DECODE_SECONDS,
    memory: int = DECODE_MEMORY,
    max_side: int = MAX_SIDE,
    lenient: bool = False,
    gps: bool = False,
) -> ImageInfo:
    """Like `decode_image`, in a child process.

    Args:
      seconds: of wall clock; the child's own alarm kills it after them.
      memory: bytes of address space the child may have.
      lenient: a file that ends too early gives what there is of it. For people to look at only.

    Raises:
      ImageError: also with `decode_crash` and `decode_timeout`.
    """
    request = {"spec": spec.to_json(), "max_pixels": max_pixels, "seconds": seconds}
    request |= {"memory": memory, "max_side": max_side, "lenient": lenient, "gps": gps}
    child = subprocess.Popen(
        child_command("imagecensus.transforms.decoders.isolate"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=reader_environment(),
        cwd=WORKING_FOLDER,
    )
    try:
        answer, _ = child.communicate(
            json.dumps(request).encode() + b"\n" + data, timeout=seconds + _STARTING_SECONDS
        )
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        raise _timeout(seconds) from None
    head, _, pixels = answer.partition(b"\n")
    if child.returncode == -signal.SIGALRM:
        raise _timeout(seconds)
    if child.returncode != 0 or len(pixels) not in (0, out.size):
        raise ImageError("decode_crash", f"the decoder {ending(child.returncode)}")
    said = json.loads(head)
    if "status" in said:
        raise ImageError(said["status"], said["error"], said["format"])
    out[...] = np.frombuffer(pixels, np.uint8).reshape(out.shape)
    return ImageInfo(**said)


def reader_environment() -> dict[str, str]:
    """The environment of a child with bounded address space."""
    # NumPy's algebra would take address space for a thread per core, and is of no use there.
    return child_environment(OPENBLAS_NUM_THREADS="1")


def begin_child(memory: int) -> BinaryIO:
    """In a child: bounds its address space; returns where its answer goes."""
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries that print must not garble the answer
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    return answer


def _timeout(seconds: float) -> ImageError:
    return ImageError(
        "decode_timeout", f"not decoded within {seconds:g} s (raise it with --decode-seconds)"
    )


def ending(code: int) -> str:
    """How a process ended, given its exit code or minus its signal."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"died of {signal.Signals(-code).name}"
    except ValueError:
        return f"died of signal {-code}"


def _child() -> None:
    """Reads a request from standard input, answers on standard output."""
    from PIL import ImageFile

    from imagecensus.model_export.preprocess import configure_pillow, decode_image

    request = json.loads(sys.stdin.buffer.readline())
    answer = begin_child(request["memory"])
    configure_pillow()
    ImageFile.LOAD_TRUNCATED_IMAGES = request["lenient"]
    spec = PreprocessSpec.from_json(request["spec"])
    pixels = np.empty(spec.shape, np.uint8)
    data = sys.stdin.buffer.read()
    signal.setitimer(signal.ITIMER_REAL, request["seconds"])
    try:
        limits = request["max_pixels"], request["max_side"]
        info = decode_image(data, spec, pixels, *limits, gps=request["gps"])
        said = dataclasses.asdict(info)
        body = pixels.tobytes()
    except ImageError as error:
        said = {"status": error.status, "error": str(error), "format": error.image_format}
        body = b""
    answer.write(json.dumps(said).encode() + b"\n" + body)
    answer.flush()


if __name__ == "__main__":
    _child()
