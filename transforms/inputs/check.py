"""What can be said of inputs by their names alone. Light: options import it."""

from __future__ import annotations

import os
import re
import urllib.parse

from imagecensus.transforms.inputs.pipes import is_pipe
from imagecensus.transforms.storage.locations import is_address, is_remote, is_web

GLOB_CHARACTERS = re.compile(r"[*?\[]")


def check_inputs(inputs: tuple[str, ...]) -> list[str]:
    """What is wrong with the inputs, as sentences, without listing them."""
    problems = []
    for text in inputs:
        if is_remote(text) or is_pipe(text):
            continue
        if is_address(text):
            scheme = text.partition(":")[0]
            problems.append(
                f"{text}: {scheme}:// is not read here; copy the images to a folder, or to a store"
                " that is (s3://, gs://, az://, abfss://)"
            )
            continue
        path = os.path.abspath(text)
        if not os.path.lexists(path) and not is_glob(text):
            problems.append(f"{text}: no such file or folder")
    return problems


def as_path(text: str) -> str:
    """The path that a `file:` uri means, as a table has it; other inputs as they are."""
    if not text.startswith("file:/"):
        return text
    path = text.removeprefix("file:").removeprefix("//").removeprefix("localhost")
    return os.fsdecode(urllib.parse.unquote_to_bytes(os.fsencode(path)))


def is_glob(text: str) -> bool:
    return not is_web(text) and bool(GLOB_CHARACTERS.search(text))
