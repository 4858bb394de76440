import errno
import os
import signal
import subprocess
import sys

import pytest

from imagecensus.transforms.decoders import inflight

WRITER = """
import os, signal, sys
from imagecensus.transforms.decoders import inflight
journal = inflight.Journal(sys.argv[1], 3)
journal.enter(0, inflight.digest_of("a.jpg"))
journal.enter(2, inflight.digest_of("b.jpg"))
journal.enter(1, inflight.digest_of("c.jpg"))
journal.leave(1)
if sys.argv[2] == "die":
    os.kill(os.getpid(), signal.SIGKILL)
journal.close()
"""


def _write(folder, how):
    return subprocess.run([sys.executable, "-c", WRITER, str(folder), how]).returncode


def test_a_process_that_dies_leaves_its_suspects(tmp_path):
    assert _write(tmp_path, "die") == -signal.SIGKILL
    suspects = inflight.read_suspects(str(tmp_path))
    assert suspects == {inflight.digest_of("a.jpg"), inflight.digest_of("b.jpg")}
    inflight.forget(str(tmp_path))
    assert not tmp_path.exists()


def test_a_process_that_ends_well_leaves_nothing(tmp_path):
    assert _write(tmp_path, "end") == 0
    assert os.listdir(tmp_path) == []


def test_the_journal_of_a_living_process_names_no_suspects(tmp_path):
    journal = inflight.Journal(str(tmp_path), 1)
    journal.enter(0, inflight.digest_of("a.jpg"))
    assert inflight.read_suspects(str(tmp_path)) == frozenset()
    inflight.forget(str(tmp_path))
    assert os.path.exists(journal.path)
    journal.close()
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_there_has_no_suspects(tmp_path):
    assert inflight.read_suspects(str(tmp_path / "absent")) == frozenset()
    inflight.forget(str(tmp_path / "absent"))


def test_journals_of_a_bucket_are_on_this_machine():
    assert inflight.folder_for("gs://b/out/_imagecensus").startswith("/")
    assert inflight.folder_for("/out/_imagecensus") == "/out/_imagecensus/inflight"


def test_a_journal_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(inflight.os, "write", full)
    with pytest.raises(OSError, match="No space"):
        inflight.Journal(str(tmp_path), 1)
    assert os.listdir(tmp_path) == []


def test_a_journal_in_the_making_is_left_alone(tmp_path):
    born = tmp_path / "1-new.inflight"
    born.touch()
    inflight.forget(str(tmp_path))
    assert born.exists()
    os.utime(born, (0, 0))  # its maker died long ago
    inflight.forget(str(tmp_path))
    assert not born.exists()


def test_a_shard_leaves_the_suspects_of_another_and_a_run_over_everything_takes_all(tmp_path):
    shards = [tmp_path / "inflight-s0of2", tmp_path / "inflight-s1of2"]
    for shard in shards:
        _write(shard, "die")
    inflight.forget(str(shards[0]))
    assert not shards[0].exists()
    assert len(inflight.read_suspects(str(shards[1]))) == 2
    whole = tmp_path / "inflight"
    assert len(inflight.read_suspects(str(whole))) == 2
    inflight.forget(str(whole))
    assert os.listdir(tmp_path) == []
