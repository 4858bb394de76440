"""Options as dataclasses: each field is declared and documented once; flags and help follow.

A command declares a frozen dataclass of `Options` whose fields come from `option(...)` or
`argument(...)`. Unknown flags are an error, or the value of the field `unknown_flags()`.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NoReturn, Self, TypeVar, overload

from imagecensus.model_export.common.errors import UserError

_T = TypeVar("_T")
# How often an argument is given, as a usage line says it.
_USAGE = {"": "{}", "?": "[{}]", "*": "[{}...]", "+": "{}..."}
_REQUIRED = "the following arguments are required: "  # as argparse begins the message


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


def unknown_flags() -> Any:
    """A field that takes the words that the dataclass does not know, for somebody else to judge."""
    return dataclasses.field(default=(), metadata={"unknown": True})


def declared(cls: type[Any]) -> list[dataclasses.Field[Any]]:
    """The fields that a user gives, as an argument or by a flag."""
    return [field for field in dataclasses.fields(cls) if "help" in field.metadata]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a command, whose docstring is what help says first.

    Attributes:
      epilog: what help says last.
    """

    epilog: ClassVar[str] = ""

    @classmethod
    def parse(cls, argv: Sequence[str], prog: str) -> Self:
        """The options of a command line.

        Raises:
          UserError: an unknown flag, and the message proposes the nearest known one; a value of
            another kind; an empty input or output; or `problems`.
          SystemExit: help was asked for.
        """
        words = _join_values(cls, argv)
        _check_spelling(cls, words, prog)
        # "Intermixed": arguments may stand before, between and after flags.
        values, rest = build_parser(cls, prog).parse_known_intermixed_args(words)
        empty = _empty(cls, values)
        if empty:
            names = " and ".join(empty)
            raise UserError(f"{names} is empty; a variable may be unset in this shell")
        fields = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in vars(values).items()
        }
        takes = [field.name for field in dataclasses.fields(cls) if "unknown" in field.metadata]
        if rest and not takes:
            raise UserError(_refusal(cls, rest[0].split("=")[0], prog))
        options = cls(**fields, **{name: tuple(rest) for name in takes})
        refuse(options.problems())
        return options

    def problems(self) -> list[str]:
        """What is wrong with the values, as sentences: all that can be said at once."""
        return []


class _Parser(argparse.ArgumentParser):
    """Says what is wrong as everything else does, also to a caller in Python."""

    def error(self, message: str) -> NoReturn:
        text = message.removeprefix("argument ")
        if text.startswith(_REQUIRED):
            text = f"missing: {text.removeprefix(_REQUIRED)}"
        raise UserError(f"{text}\n{self.format_usage().strip()}; --help explains them")


class _Help(argparse.HelpFormatter):
    """Paragraphs stay paragraphs, as wide as the terminal."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(fill(part, width, indent) for part in text.split("\n\n"))


def build_parser(cls: type[Options], prog: str) -> argparse.ArgumentParser:
    """The parser for a dataclass of options."""
    positionals = [
        _USAGE[f.metadata.get("nargs", "")].format(f.metadata.get("metavar", f.name.upper()))
        for f in declared(cls)
        if f.metadata.get("positional")
    ]
    parser = _Parser(
        prog=prog,
        usage=" ".join([prog, *positionals, "[options]"]),
        description=inspect.getdoc(cls),
        epilog=cls.epilog,
        allow_abbrev=False,
        formatter_class=_Help,
    )
    # argparse has a group of this name itself, for --help.
    groups: dict[str, argparse._ActionsContainer] = {"options": parser}
    for field in declared(cls):
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
        else:
            _describe_value(kwargs)
        flag = kwargs.pop("flag", "--" + field.name.replace("_", "-"))
        former = kwargs.pop("former", ())
        groups[group].add_argument(flag, dest=field.name, **kwargs)
        for name in former:
            hidden = {**kwargs, "help": argparse.SUPPRESS}
            groups[group].add_argument(name, dest=field.name, **hidden)
    return parser


def _describe_value(kwargs: dict[str, Any]) -> None:
    """Completes what argparse is told of a flag that takes a value."""
    default = kwargs["default"]
    kind = kwargs.get("type", str if default is None else type(default))
    kind = _whole_number if kind is int else kind
    metavar, wanted = _KINDS[kind]
    if "choices" not in kwargs:
        kwargs.setdefault("metavar", metavar)
    if default is not None and default != "":
        shown = f"{default >> 30}G" if kind is size_in_bytes else default
        kwargs["help"] += f" (default: {shown})"

    def convert(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}") from None

    kwargs["type"] = convert


def _join_values(cls: type[Any], argv: Sequence[str]) -> list[str]:
    """The words with `--flag -1..1` as `--flag=-1..1`: argparse takes that value for a flag."""
    flags = {
        f.metadata.get("flag", "--" + f.name.replace("_", "-"))
        for f in declared(cls)
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
    options = (f for f in declared(cls) if not f.metadata.get("positional"))
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
    for field in declared(cls):
        value = getattr(values, field.name)
        if field.metadata.get("positional"):
            if value == "" or (isinstance(value, list) and "" in value):
                found.append(field.metadata.get("metavar", field.name.upper()))
        elif value == "" and field.default != "":
            found.append("--" + field.name.replace("_", "-"))
    return found


def _refusal(cls: type[Any], flag: str, prog: str) -> str:
    """Why a flag is not taken."""
    if any(f.metadata.get("positional") and flag == f"--{f.name}" for f in declared(cls)):
        return f"unknown argument {flag}; give {flag[2:].upper()} without it"
    return unknown_flag(flag, known_flags(cls), prog)


def known_flags(cls: type[Any]) -> list[str]:
    """The flags of a dataclass, without its positional fields."""
    fields = (f for f in declared(cls) if not f.metadata.get("positional"))
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


def _whole_number(text: str) -> int:
    """Raises ValueError also for what fits no column and no counter."""
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise ValueError(text)
    return number


def size_in_bytes(text: str) -> int:
    """'512M' or '2G' as a number of bytes. Raises ValueError for what is none."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    text = text.strip().upper().removesuffix("B").removesuffix("I")
    factor = units.get(text[-1:], 1)
    size = float(text[:-1] if factor > 1 else text) * factor
    if not 0 <= size < 2**63:
        raise ValueError(text)
    return int(size)


# The kinds of values: the word for it in help, and what an error says was wanted.
_KINDS: dict[Callable[[str], Any], tuple[str, str]] = {
    str: ("TEXT", "text"),
    _whole_number: ("N", "a whole number of 64 bits"),
    float: ("X", "a number"),
    size_in_bytes: ("SIZE", "a size, such as 512M or 2G"),
}
