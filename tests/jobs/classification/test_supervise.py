"""The process that waits for a job and runs it again when an image killed it."""

import signal
import subprocess
import sys

import pytest

JOB = """
import os, signal, sys, time
from imagecensus.jobs.classification import supervise
from imagecensus.transforms.decoders import inflight

folder, deeds = sys.argv[1], sys.argv[2].split(",")

def job():
    supervise.journals_are_in(folder)
    tries = len(os.listdir(folder))
    deed = deeds[min(tries, len(deeds) - 1)]
    journal = inflight.Journal(folder, 1)
    if deed.startswith("crash"):
        journal.enter(0, inflight.digest_of(deed))
        os.kill(os.getpid(), signal.SIGSEGV)
    if deed == "kill":
        journal.enter(0, inflight.digest_of(deed))
        os.kill(os.getpid(), signal.SIGKILL)
    if deed == "wait":
        print("waiting", flush=True)
        time.sleep(60)
    return int(deed)

code = supervise.run(job)
sys.stdout.flush()
os._exit(code)
"""


def _run(folder, deeds):
    return subprocess.run(
        [sys.executable, "-c", JOB, str(folder), deeds], capture_output=True, text=True
    )


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_the_jobs_exit_code_is_passed_on(tmp_path, code):
    assert _run(tmp_path, str(code)).returncode == code


def test_a_crash_with_new_suspects_is_resumed(tmp_path):
    done = _run(tmp_path, "crash-a,crash-b,0")
    assert done.returncode == 0
    assert done.stderr.count("resuming") == 2


def test_the_same_suspects_again_are_not(tmp_path):
    done = _run(tmp_path, "crash-a,crash-a,0")
    assert done.returncode == 128 + signal.SIGSEGV
    assert done.stderr.count("resuming") == 1
    assert "SIGSEGV; run the same command again" in done.stderr


def test_who_was_killed_stays_dead(tmp_path):
    done = _run(tmp_path, "kill,0")
    assert done.returncode == 128 + signal.SIGKILL
    assert "resuming" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_signals_reach_the_job(tmp_path, number):
    parent = subprocess.Popen(
        [sys.executable, "-c", JOB, str(tmp_path), "wait"], stdout=subprocess.PIPE, text=True
    )
    parent.stdout.readline()
    parent.send_signal(number)
    parent.wait(30)
    # The pipe closes when the last process that writes to it is gone.
    assert parent.stdout.read() == ""
