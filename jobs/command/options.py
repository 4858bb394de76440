"""Options as dataclasses: each field is declared and documented once; flags and help follow.

A job declares a frozen dataclass whose fields come from `option(...)` or `argument(...)`, and
calls `parse_options`. Unknown flags are an error, or are handed back for Beam to judge.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import re
import textwrap
from collections.abc import Sequence
from typing import Any, TypeVar, overload

from imagecensus.model_export.common.errors import UserError

_T = TypeVar("_T")
# How often an argument is given, as a usage line says it.
_USAGE = {"": "{}", "?": "[{}]", "*": "[{}...]", "+": "{}..."}


@overload
def option(default: None, help: str, group: str = "options", **argparse_kwargs: Any) -> Any: ...
@overload
def option(default: _T, help: str, group: str = "options", **argparse_kwargs: Any) -> _T: ...
def option(default: Any, help: str, group: str = "options", **argparse_kwargs: Any) -> Any:
    """A field that becomes `--its-name`. The type follows from the default, or from `type=`.

    `former=` are flags of earlier versions that mean the same; help does not show them.
    """
    metadata = {"help": help, "group": group, **argparse_kwargs}
    return dataclasses.field(default=default, metadata=metadata)


def argument(help: str, **argparse_kwargs: Any) -> Any:
    """A positional field."""
    metadata = {"help": help, "positional": True, **argparse_kwargs}
    return dataclasses.field(default=None, metadata=metadata)


def build_parser(
    cls: type[Any], prog: str, description: str, epilog: str = ""
) -> argparse.ArgumentParser:
    """The parser for a dataclass of options."""
    positionals = [
        _USAGE[f.metadata.get("nargs", "")].format(f.metadata.get("metavar", f.name.upper()))
        for f in dataclasses.fields(cls)
        if f.metadata.get("positional")
    ]
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=" ".join([prog, *positionals, "[options]"]),
        description="\n\n".join(map(textwrap.fill, description.split("\n\n"))),
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # argparse has a group of this name itself, for --help.
    groups: dict[str, argparse._ActionsContainer] = {"options": parser}
    for field in dataclasses.fields(cls):
        kwargs = dict(field.metadata)
        kwargs["help"] = kwargs["help"].replace("%", "%%")
        if kwargs.pop("positional", False):
            parser.add_argument(field.name, **{"metavar": field.name.upper(), **kwargs})
            continue
        group = kwargs.pop("group")
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        kwargs["default"] = field.default
        if field.default is False:
            kwargs["action"] = "store_true"
        elif field.default is not None:
            kwargs.setdefault("type", type(field.default))
            if field.default != "":
                kwargs["help"] += f" (default: {field.default})"
        if "metavar" not in kwargs and field.default is not False and "choices" not in kwargs:
            kwargs["metavar"] = getattr(kwargs.get("type"), "__name__", "text").upper()
        flag = kwargs.pop("flag", "--" + field.name.replace("_", "-"))
        former = kwargs.pop("former", ())
        groups[group].add_argument(flag, dest=field.name, **kwargs)
        for name in former:
            hidden = {**kwargs, "help": argparse.SUPPRESS}
            groups[group].add_argument(name, dest=field.name, **hidden)
    return parser


def parse_options(cls: type[_T], argv: Sequence[str], prog: str, description: str) -> _T:
    """Parses a command line into `cls`, a dataclass.

    Raises:
      UserError: an unknown flag, and the message proposes the nearest known one; or an empty
        input or output.
    """
    options, rest = parse_known_options(cls, argv, prog, description)
    if rest:
        flag = rest[0].split("=")[0]
        if flag.removeprefix("--") in _positionals(cls):
            raise UserError(f"unknown argument {flag}; give {flag[2:].upper()} without it")
        raise UserError(unknown_flag(flag, known_flags(cls), prog))
    return options


def parse_known_options(
    cls: type[_T], argv: Sequence[str], prog: str, description: str, epilog: str = ""
) -> tuple[_T, list[str]]:
    """The options, and the arguments that the dataclass does not know, for Beam.

    Raises:
      UserError: a flag is missing and one nearly like it is given; or an empty input or output.
    """
    parser = build_parser(cls, prog, description, epilog)
    words = _join_values(cls, argv)
    _check_spelling(cls, words, prog)
    values, rest = parser.parse_known_args(words)
    empty = _empty(cls, values)
    if empty:
        raise UserError(f"{' and '.join(empty)} is empty; a variable may be unset in this shell")
    fields = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(values).items()
    }
    return cls(**fields), rest


def _join_values(cls: type[Any], argv: Sequence[str]) -> list[str]:
    """The words with `--flag -1..1` as `--flag=-1..1`: argparse takes that value for a flag."""
    flags = {
        f.metadata.get("flag", "--" + f.name.replace("_", "-"))
        for f in dataclasses.fields(cls)
        if not f.metadata.get("positional") and f.default is not False
    }
    words: list[str] = []
    for word in argv:
        if words and words[-1] in flags and re.match(r"-[.\d]", word):
            words[-1] += "=" + word
        else:
            words.append(word)
    return words


def _check_spelling(cls: type[Any], words: list[str], prog: str) -> None:
    """Names a misspelt flag before argparse misses the one that was meant.

    Raises:
      UserError: a flag is missing, and one that nobody knows is nearly the same word.
    """
    known = known_flags(cls)
    given = [word.split("=")[0] for word in words if word.startswith("--")]
    options = (f for f in dataclasses.fields(cls) if not f.metadata.get("positional"))
    missing = [
        flag
        for f, flag in zip(options, known, strict=True)
        if f.metadata.get("required", f.default is None) and flag not in given
    ]
    for flag in given:
        if flag not in known and difflib.get_close_matches(flag, missing, n=1, cutoff=0.8):
            raise UserError(unknown_flag(flag, missing, prog))


def _empty(cls: type[Any], values: argparse.Namespace) -> list[str]:
    """Inputs and options that were given as "", which nobody means: it is no path and no name."""
    found = []
    for field in dataclasses.fields(cls):
        value = getattr(values, field.name)
        if field.metadata.get("positional"):
            if value == "" or (isinstance(value, list) and "" in value):
                found.append(field.metadata.get("metavar", field.name.upper()))
        elif value == "" and field.default != "":
            found.append("--" + field.name.replace("_", "-"))
    return found


def _positionals(cls: type[Any]) -> list[str]:
    return [f.name for f in dataclasses.fields(cls) if f.metadata.get("positional")]


def known_flags(cls: type[Any]) -> list[str]:
    """The flags of a dataclass, without its positional fields."""
    fields = (f for f in dataclasses.fields(cls) if not f.metadata.get("positional"))
    return ["--" + f.name.replace("_", "-") for f in fields]


def unknown_flag(flag: str, known: list[str], prog: str) -> str:
    """The message for a flag that nobody knows."""
    near = difflib.get_close_matches(flag.split("=")[0], known, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; see {prog} --help"
    return f"unknown argument {flag}{hint}"


def refuse(problems: list[str]) -> None:
    """Raises UserError with all that is wrong with a request, where anything is."""
    if problems:
        raise UserError("\n  ".join(["cannot start:", *problems] if problems[1:] else problems))


def size_in_bytes(text: str) -> int:
    """'512M' or '2G' as a number of bytes. Raises ValueError for what is none."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    text = text.strip().upper().removesuffix("B").removesuffix("I")
    factor = units.get(text[-1:], 1)
    size = float(text[:-1] if factor > 1 else text) * factor
    if not 0 <= size < 2**63:
        raise ValueError(text)
    return int(size)
