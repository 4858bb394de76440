"""The `imagecensus` command: finds the job and turns mistakes into sentences.

Exit codes: 0 done; 1 the run ended but its totals do not balance or too many images failed;
2 the request cannot be carried out as given; 130 interrupted, rerun to resume; 3 a defect.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from imagecensus.jobs.command import logs, process
from imagecensus.model_export.common.errors import TAKES_NOTHING, UserError
from imagecensus.model_export.common.redact import redact
from imagecensus.model_export.common.version import __version__

_OUT_OF_MEMORY = re.compile(
    r"MemoryError|bad_alloc|Cannot allocate memory|failed to map segment|can't start new thread"
    r"|malloc of size \d+ failed|OutOfMemoryException|bad allocation"
)
# As libraries say it that raise errors of their own.
_NO_SPACE = re.compile("|".join([*map(os.strerror, TAKES_NOTHING), "max_temp_directory_size"]))
_FILES = "close some, or raise the limit (ulimit -n 4096)"
_SPACE = "free some, or name another folder for temporary files with TMPDIR=FOLDER"
_REMEDIES = {
    **dict.fromkeys(TAKES_NOTHING, _SPACE),
    errno.EMFILE: _FILES, errno.ENFILE: _FILES,
    errno.EACCES: "ask for the permission", errno.EPERM: "ask for the permission",
    errno.EIO: "check the disk or the network mount", errno.ESTALE: "check the network mount",
    errno.ENOTCONN: "check the network mount", errno.ETIMEDOUT: "check the network",
    errno.ECONNREFUSED: "check the network", errno.ECONNRESET: "check the network",
    errno.EHOSTUNREACH: "check the network", errno.ENETUNREACH: "check the network",
    errno.EAGAIN: "end other processes, or raise the limit (ulimit -u)",
    errno.ENAMETOOLONG: "use a shorter name", errno.ELOOP: "undo the circle of links",
    errno.ENOENT: "check that it is there", errno.ENOTDIR: "name a folder",
    errno.EISDIR: "name a file",
}  # fmt: skip
# What only an extra of setup.py brings: module → extra.
_EXTRAS = {
    **dict.fromkeys(
        ("h5py", "keras", "tensorboard", "tensorflow", "tensorflow_hub", "tf_keras", "tfx_bsl"),
        "tensorflow",
    ),
    **dict.fromkeys(("matplotlib", "pandas", "sklearn"), "report"),
    **dict.fromkeys(
        ("imagecodecs", "inflate64", "pi_heif", "pydicom", "pypdfium2", "rawpy", "tifffile"),
        "formats",
    ),
    **dict.fromkeys(("starlette", "uvicorn"), "browse"),
    "tensorflow_datasets": "tfds",
    "nncf": "quantize",
    "deltalake": "delta",
    "huggingface_hub": "huggingface",
}
_BEAM_NOTE = re.compile(r" \[while running '[^']*'\]")

# name: one line of help. A command is the module of that name, its options those in `options`.
COMMANDS = {
    "classify": "classify archives of images into a Parquet table",
    "doctor": "check before a run whether it can work",
    "plan": "measure here and forecast time, workers and cost of a run",
    "status": "check the totals of an output, and say which job runs for it",
    "evaluate": "compare a finished table with true labels",
    "predict": "classify a few images and print the answers",
    "report": "write a page about a finished table, for people to look at",
    "similar": "find images that look alike",
    "browse": "show a finished table as a page, to look, correct and try",
    "compact": "merge a table's many small parts into few, sorted by uri",
    "table": "write a finished table as CSV or JSON Lines",
    "export": "make a model folder of a classifier trained elsewhere",
    "quantize": "give a model a faster int8 version, and measure what it loses",
    "train": "train a classifier on labelled images and export it",
}


def main(argv: list[str] | None = None) -> int:
    """Runs one job; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    as_json = "--log-json" in argv
    argv = [word for word in argv if word not in ("--debug", "--log-json")]
    if argv[:1] == ["help"] and argv[1:]:
        argv = [argv[1], "--help"]
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        print(f"imagecensus {__version__}")
        return 0
    if argv[0] not in COMMANDS:
        near = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        print(f"imagecensus: no command {argv[0]!r}{hint}\n\n{_usage()}", file=sys.stderr)
        return 2
    return run_job(argv[0], argv[1:], debug, as_json)


def command(job: str = "") -> None:
    """The `imagecensus` command: `main` for a process that ends with it.

    Args:
      job: the job of a module that is run itself, as `python -m imagecensus.jobs.train`.
    """
    _use_utf8()
    if job:
        sys.argv[1:1] = [job]
    _make_streams_safe()
    process.own_process = True
    os.environ["PYTHONSAFEPATH"] = "1"  # for children that libraries start: no current folder
    process.leave(_main())


def _main() -> int:
    """`main` for a process that ends with it: help, too, may go where nothing can be written."""
    try:
        return main()
    except SystemExit as end:  # argparse's, after help
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    except BrokenPipeError:
        return 0
    except OSError as error:
        print(f"imagecensus: standard output: {error.strerror}", file=sys.stderr)
        return 1


def _use_utf8() -> None:
    """Begins anew in UTF-8 where the locale has another encoding: names of files are UTF-8."""
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _make_streams_safe() -> None:
    """Lets streams be closed, and names in any encoding be printed."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # closed by what started the process
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - as long as the process
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def parse(name: str, argv: Sequence[str]) -> Any:
    """The options of a command, without importing it. Raises what `Options.parse` does."""
    module = importlib.import_module(f"imagecensus.jobs.options.{name}")
    return getattr(module, f"{name.capitalize()}Options").parse(argv, f"imagecensus {name}")


def run(name: str, argv: Sequence[str]) -> int:
    """Runs a command; returns its exit code, and raises what it raises."""
    options = parse(name, argv)
    with process.importing():
        job = importlib.import_module(f"imagecensus.jobs.{name}")
    return job.main(options) or 0


def run_job(name: str, argv: list[str], debug: bool = False, as_json: bool = False) -> int:
    """Runs a command and maps what it raises to an exit code."""
    return call(lambda: run(name, argv), debug, as_json)


def call(job: Callable[[], int], debug: bool = False, as_json: bool = False) -> int:
    """Calls something that returns an exit code, and maps what it raises to one."""
    logs.configure(debug, as_json)
    try:
        _check_current_folder()
        return job()
    except UserError as error:
        if debug:
            print(redact(traceback.format_exc()), file=sys.stderr)
        print(f"imagecensus: {redact(_BEAM_NOTE.sub('', str(error)))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("imagecensus: interrupted; run the same command again to resume", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:
        if debug:
            print(redact(traceback.format_exc()), file=sys.stderr)
        missing = (getattr(error, "name", None) or "").split(".")[0]
        if isinstance(error, ModuleNotFoundError) and missing in _EXTRAS:
            print(
                f"imagecensus: this needs {missing}, which is not installed here; run"
                f" `pip install 'imagecensus[{_EXTRAS[missing]}]'`",
                file=sys.stderr,
            )
            return 2
        cause = _of_the_machine(error)
        if cause:
            print(f"imagecensus: {redact(cause)}", file=sys.stderr)
            return 1
        print(
            f"imagecensus: unexpected {type(error).__name__}: {redact(str(error))}\n"
            "This is a defect in imagecensus; run again with --debug for the traceback.",
            file=sys.stderr,
        )
        return 3


def _of_the_machine(error: Exception) -> str:
    """What the machine lacks, where that ended the job, and the remedy; "": the error is ours."""
    resume = "and run the same command again to resume"
    if _OUT_OF_MEMORY.search(f"{type(error).__name__}: {error}"):
        return f"out of memory; free some, or use fewer --threads, {resume}"
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _REMEDIES:
            where = f"{os.fsdecode(seen.filename)}: " if seen.filename is not None else ""
            reason = seen.strerror or os.strerror(seen.errno)
            return f"{where}{reason}; {_REMEDIES[seen.errno]}, {resume}"
        full = _NO_SPACE.search(str(seen))
        if full:
            return f"{str(seen).splitlines()[0]}; {_REMEDIES[errno.ENOSPC]}, {resume}"
        seen = seen.__cause__ or seen.__context__
    return ""


def _check_current_folder() -> None:
    try:
        os.getcwd()
    except OSError:
        raise UserError(
            "the current folder does not exist any more; change to one that does"
        ) from None


def _usage() -> str:
    lines = ["usage: imagecensus COMMAND ...", "", "One label per image, in a table you can query."]
    lines += ["", "commands:"]
    lines += [f"  {name:<10} {text}" for name, text in COMMANDS.items()]
    lines += ["", "`imagecensus COMMAND --help` explains one."]
    lines += ["`--debug` shows tracebacks, `--log-json` logs JSON Lines to standard error."]
    return "\n".join(lines)


if __name__ == "__main__":
    command()
