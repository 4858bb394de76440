"""What a user's machine, locale and terminal can bring about is said, and is no defect."""

import errno
import os
import shlex
import subprocess
import sys
import types

import duckdb
import pytest

from imagecensus.jobs import cli


def run_raising(monkeypatch, error: Exception) -> int:
    def main(options: object) -> int:
        raise error

    monkeypatch.setitem(sys.modules, "imagecensus.jobs.table", types.SimpleNamespace(main=main))
    return cli.run_job("table", ["output"])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/tmp/x"), "/tmp/x: No space left on"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files; close some"),
        (PermissionError(errno.EACCES, "Permission denied", b"/a"), "/a: Permission denied; ask"),
        (OSError(errno.ESTALE, "Stale file handle", "/mnt/x"), "/mnt/x: Stale file handle; check"),
        (duckdb.IOException("IO Error: No space left on device"), "No space left on device; free"),
        (duckdb.IOException("IO Error: File too large"), "File too large; free"),
        (MemoryError(), "out of memory"),
    ],
)
def test_what_the_machine_lacks_is_named_with_its_remedy(monkeypatch, capsys, error, said):
    wrapped = RuntimeError("while it ran")
    wrapped.__cause__ = error
    for raised in (error, wrapped) if not isinstance(error, MemoryError) else (error,):
        assert run_raising(monkeypatch, raised) == 1
        text = capsys.readouterr().err
        assert said in text and "run the same command again" in text and "defect" not in text


def test_what_is_ours_is_a_defect(monkeypatch, capsys):
    assert run_raising(monkeypatch, KeyError("x")) == 3
    assert "This is a defect" in capsys.readouterr().err


def run(words: list[str], **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "imagecensus.jobs.cli", *words]
    return subprocess.run(command, capture_output=True, check=False, timeout=60, **options)


@pytest.mark.parametrize(
    "locale",
    [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"}],
)
def test_names_are_utf8_in_every_locale(locale):
    ended = run(["report", "n\u00f6where"], env={**os.environ, **locale})
    assert ended.returncode == 2
    assert "n\u00f6where".encode() in ended.stderr or b"n\\xf6where" in ended.stderr


def test_closed_streams_are_empty(tiny_model):
    command = [sys.executable, "-m", "imagecensus.jobs.cli", "predict", "-", "--model", tiny_model]
    closed = " ".join(map(shlex.quote, command)) + " <&-"
    ended = subprocess.run(["sh", "-c", closed], capture_output=True, check=False, timeout=60)
    assert ended.returncode == 1 and b"empty_file" in ended.stdout, ended.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has such a device")
def test_output_that_cannot_be_printed_is_no_defect():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "imagecensus.jobs.cli", "--help"]
        ended = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, check=False, timeout=60, text=True
        )
    assert ended.returncode == 1
    assert ended.stderr == "imagecensus: standard output: No space left on device\n"


def test_help_on_a_command(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["help", "status"])
    assert capsys.readouterr().out.startswith("usage: imagecensus status OUTPUT")
    assert cli.main(["help", "sttus"]) == 2
    assert "did you mean status?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code"), [(["status", "--help"], 0), (["evaluate"], 2), (["status"], 2)]
)
def test_help_and_refusals_are_all_that_is_printed(words, code):
    ended = run(words)
    text = (ended.stdout or ended.stderr).decode()
    usage = f"usage: imagecensus {words[0]} OUTPUT"
    assert ended.returncode == code
    assert text.startswith(f"imagecensus: missing: OUTPUT\n{usage}" if code else usage)
    assert not (ended.stdout and ended.stderr)
    assert len(ended.stderr.splitlines()) <= 2  # libraries that are not freed complain in dozens
