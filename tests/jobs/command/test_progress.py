"""Signs of life in a log."""

import json
import logging
import sys
import time

import pytest

from imagecensus.jobs.command import logs, progress


@pytest.fixture
def root_logger():
    """The root logger, put back as it was."""
    root = logging.getLogger()
    handlers, levels = (
        root.handlers[:],
        {n: logging.getLogger(n).level for n in ("imagecensus", "")},
    )
    yield root
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("terminal", [False, True])
def test_a_log_has_a_line_every_so_often(root_logger, monkeypatch, capsys, as_json, terminal):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.05)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    root_logger.handlers[:] = []  # as in a process that logs nothing yet
    logs.configure(as_json=as_json)
    with progress.progress_bar("classifying", 1000, lambda: 250):
        time.sleep(0.3)
    lines = [line for line in capsys.readouterr().err.splitlines() if "classifying" in line]
    if terminal and not as_json:
        return  # a bar
    assert len(lines) >= 2
    if as_json:
        said = json.loads(lines[0])
        assert (said["images"], said["total"], said["stage"]) == (250, 1000, "classifying")
        assert said["seconds_left"] >= 0 and said["images_per_second"] > 0
    else:
        assert lines[0].startswith("imagecensus: classifying: 250 of 1,000 images, 5,")
        assert lines[0].endswith(" s left")


def test_what_has_no_known_end_tells_how_much_there_is(root_logger, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.02)
    root_logger.handlers[:] = []
    logs.configure()
    with progress.progress_bar("listing", None, lambda: 0):
        time.sleep(0.1)
    assert "imagecensus: listing: 0 images, 0.0 a second\n" in capsys.readouterr().err
    assert progress._duration(8000) == "2 h 13 min" and progress._duration(90) == "2 min"
