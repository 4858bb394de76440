"""The flags of Apache Beam, which `classify` and `doctor` take beside their own."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Sequence
from typing import Any

from imagecensus.jobs.command.options import known_flags, unknown_flag
from imagecensus.jobs.options.classify import FLINK, IN_PROCESS, ClassifyOptions
from imagecensus.model_export.common.errors import UserError

# Runners with flags that only their job server knows.
OTHER_FLAGS = (FLINK, "PortableRunner", "SparkRunner")
_SLIP = 0.9  # a flag is that much like a known one: a slip


def validate_beam(beam_args: Sequence[str], runner: str = IN_PROCESS) -> None:
    """Raises UserError for what Beam does not know either: a slip is never ignored.

    A runner of `OTHER_FLAGS` has flags of its own: of those only what is nearly a known flag is
    refused here, and the runner's job server judges the rest.
    """
    if runner != IN_PROCESS:
        _check_runner(runner)
    if not beam_args:
        return
    takes_value = beam_flags()
    known = sorted(takes_value)
    for before, word in itertools.pairwise(("", *beam_args)):
        is_value = before.startswith("--") and "=" not in before and takes_value.get(before, True)
        if not word.startswith("--") and not is_value:  # an input, which must not be forgotten
            raise UserError(f"{word}: not understood behind a flag of Beam; name all inputs first")
    for flag in flags_of(beam_args):
        if flag in known:
            continue
        everything = known_flags(ClassifyOptions) + known
        near = difflib.get_close_matches(flag, everything, n=1, cutoff=_SLIP)
        if runner not in OTHER_FLAGS or near:
            raise UserError(unknown_flag(flag, near or everything, "imagecensus classify"))


def flags_of(beam_args: Sequence[str]) -> list[str]:
    """The names of the flags among arguments, with their dashes."""
    return [word.partition("=")[0] for word in beam_args if word.startswith("--")]


def _check_runner(runner: str) -> None:
    """Raises UserError: Beam has no runner of this name."""
    from apache_beam.options.pipeline_options import StandardOptions

    known = StandardOptions.KNOWN_RUNNER_NAMES
    if runner in known or "." in runner:  # a dot: somebody else's class
        return
    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(runner.lower(), names, n=1)
    hint = f"did you mean {names[near[0]]}?" if near else f"choose one of {', '.join(known)}"
    raise UserError(f"--runner={runner}: Beam has no such runner; {hint}")


def beam_flags() -> dict[str, bool]:
    """The flags that Beam's own Python side knows, with their dashes; True: it takes a value."""
    from apache_beam.options.pipeline_options import PipelineOptions

    parser = _BeamFlags()
    for cls in PipelineOptions.__subclasses__():
        cls._add_argparse_args(parser)
    return parser.flags


class _BeamFlags:
    """Takes the place of an argparse parser to learn which flags Beam has."""

    def __init__(self) -> None:
        self.flags: dict[str, bool] = {}

    def add_argument(self, *names: str, action: Any = "store", **_: Any) -> None:
        takes_value = not str(action).startswith(("store_true", "store_false", "store_const"))
        self.flags |= dict.fromkeys(names, takes_value)

    def add_mutually_exclusive_group(self, *_: Any, **__: Any) -> _BeamFlags:
        return self

    add_argument_group = add_mutually_exclusive_group
