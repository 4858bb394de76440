"""Decoding in child processes: the same pixels, and a typed row whatever a decoder does."""

import fcntl
import io
import json
import os
import pathlib
import pty
import signal
import socket
import subprocess
import sys
import termios
import threading
import time

import numpy as np
import pytest
from samples import photo

from imagecensus.model_export.preprocess import ImageError, PreprocessSpec, decode_image
from imagecensus.transforms.decoders import pool as pool_module
from imagecensus.transforms.decoders import sandbox
from imagecensus.transforms.decoders.pool import DecodersError, Pool, decode_config
from imagecensus.transforms.decoders.requests import Request
from imagecensus.transforms.image_ref import ImageRef, Limits

POISON = str(pathlib.Path(__file__).parents[2] / "poison")
SPEC = PreprocessSpec(height=32, width=40)


def _jpeg(seed=1):
    file = io.BytesIO()
    photo(seed).save(file, "JPEG")
    return file.getvalue()


def _poison(kind):
    return b"\xff\xd8\xffPOISON:" + kind.encode()


@pytest.fixture(scope="module")
def pool():
    with Pool(processes=2) as one:
        yield one


@pytest.fixture
def poisoned(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", POISON)
    with Pool(Limits(decode_memory=1 << 30), processes=2) as one:
        yield one


def _processes(pool):
    """Of all children, once they have started."""
    pool.start()
    while not all(driver._child for driver in pool._drivers):
        time.sleep(0.01)
    return [driver._child._process for driver in pool._drivers]


def _decode_all(pool, sources, spec=SPEC, seconds=60):
    """The answer to each source, bytes or a path; and the pixels."""
    pixels = np.zeros((len(sources), *spec.shape), np.uint8)
    answers, all_there = {}, threading.Event()

    def request(row, source):
        def done(answer):
            answers[row] = answer
            if len(answers) == len(sources):
                all_there.set()

        what = {"data": source} if isinstance(source, bytes) else {"ref": ImageRef(uri=source)}
        return Request(
            call="decode", done=done, out=pixels[row], config=decode_config(spec, pool.limits),
            seconds=seconds, max_bytes=pool.limits.max_bytes, **what,
        )  # fmt: skip

    pool.submit([request(row, source) for row, source in enumerate(sources)])
    assert all_there.wait(60)
    return [answers[row] for row in range(len(sources))], pixels


def test_pixels_and_facts_are_those_of_decode_image(pool, tmp_path):
    files = [_jpeg(seed) for seed in range(20)]
    expected = np.zeros((20, *SPEC.shape), np.uint8)
    infos = [decode_image(data, SPEC, expected[row]) for row, data in enumerate(files)]
    (tmp_path / "a.jpg").write_bytes(files[0])
    answers, pixels = _decode_all(pool, [str(tmp_path / "a.jpg"), *files[1:]])
    assert [answer.info for answer in answers] == infos
    assert [answer.size for answer in answers] == [len(data) for data in files]
    assert set(answers[0].spent) == {"read", "decode"} and set(answers[1].spent) == {"decode"}
    np.testing.assert_array_equal(pixels, expected)


def test_errors_are_those_of_decode_image(pool):
    with pytest.raises(ImageError) as expected:
        decode_image(b"no image", SPEC, np.zeros(SPEC.shape, np.uint8))
    with pytest.raises(ImageError) as error:
        pool.decode(b"no image", SPEC, np.zeros(SPEC.shape, np.uint8))
    assert error.value.status == expected.value.status == "not_an_image"
    assert str(error.value) == str(expected.value)


def test_a_file_that_is_missing_is_a_typed_answer(pool, tmp_path):
    [answer], _ = _decode_all(pool, [str(tmp_path / "none.jpg")])
    assert answer.error.status == "not_found"


def test_files_larger_than_the_shared_memory_are_decoded(pool):
    noise = np.random.default_rng(1).integers(0, 255, (2000, 2000, 3), np.uint8)
    ppm = b"P6 2000 2000 255 " + noise.tobytes()
    assert len(ppm) > 2 * sandbox.AREA_BYTES
    expected = np.zeros(SPEC.shape, np.uint8)
    decode_image(ppm, SPEC, expected)
    answers, pixels = _decode_all(pool, [_jpeg(), ppm, _jpeg(), ppm, _jpeg(2)])
    assert not [answer.error for answer in answers if answer.error]
    np.testing.assert_array_equal(pixels[1], expected)
    np.testing.assert_array_equal(pixels[3], expected)


def test_only_a_lenient_request_accepts_a_file_that_ends_early(pool):
    whole = _jpeg()
    cut = whole[: -len(whole) // 8]
    out = np.zeros(SPEC.shape, np.uint8)
    pool.decode(cut, SPEC, out, lenient=True)
    assert out.any()
    with pytest.raises(ImageError) as error:
        pool.decode(cut, SPEC, out)
    assert error.value.status == "truncated"


@pytest.mark.parametrize(
    "poison, status, seconds",
    [("segv", "decode_crash", 60), ("lock", "decode_timeout", 2), ("hang", "decode_timeout", 2),
     ("eat", "too_large", 60)],
)  # fmt: skip
def test_a_defective_decoder_costs_one_row(poisoned, poison, status, seconds):
    sources = [_jpeg(seed) for seed in range(24)]
    sources[9] = _poison(poison)
    answers, pixels = _decode_all(poisoned, sources, seconds=seconds)
    assert {row: a.error.status for row, a in enumerate(answers) if a.error} == {9: status}
    assert all(pixels[row].any() for row in range(24) if row != 9)


def test_many_crashers_cost_their_own_rows(poisoned):
    sources = [_poison("segv") if row % 3 == 0 else _jpeg(row) for row in range(30)]
    answers, _ = _decode_all(poisoned, sources)
    failed = {row for row, answer in enumerate(answers) if answer.error}
    assert failed == set(range(0, 30, 3))
    assert {a.error.status for a in answers if a.error} == {"decode_crash"}
    assert "SIGSEGV" in str(answers[0].error)


def test_who_is_killed_from_outside_is_decoded_all_the_same(pool):
    """A child that the kernel or a user ends says nothing about the image it had begun."""
    out = np.zeros(SPEC.shape, np.uint8)
    pool.decode(_jpeg(), SPEC, out)
    for process in _processes(pool):
        os.kill(process.pid, signal.SIGKILL)
    answers, _ = _decode_all(pool, [_jpeg(seed) for seed in range(8)])
    assert not [answer.error for answer in answers if answer.error]


@pytest.fixture
def sockets_with_a_timeout():
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(60)
    yield
    socket.setdefaulttimeout(before)


def test_children_wait_for_work_where_all_sockets_have_a_timeout(sockets_with_a_timeout):
    """Beam sets one for the whole process where it gets credentials of Google."""
    with Pool(processes=2) as one:
        processes = _processes(one)
        for _ in range(3):
            answers, _ = _decode_all(one, [_jpeg(seed) for seed in range(8)])
            assert not [answer.error for answer in answers if answer.error]
            time.sleep(0.2)
        assert _processes(one) == processes


def test_a_crash_costs_others_nothing_where_all_sockets_have_a_timeout(
    sockets_with_a_timeout, poisoned
):
    template = poisoned.template
    answers, _ = _decode_all(poisoned, [_poison("hang"), _poison("segv")], seconds=3)
    assert [answer.error.status for answer in answers] == ["decode_timeout", "decode_crash"]
    assert template._process.poll() is None and not template._ending


def test_where_their_template_is_killed_children_start_anew_from_another(pool):
    _processes(pool)
    template = pool.template._process
    os.kill(template.pid, signal.SIGKILL)
    for process in _processes(pool):
        os.kill(process.pid, signal.SIGKILL)
    answers, _ = _decode_all(pool, [_jpeg(seed) for seed in range(8)])
    assert not [answer.error for answer in answers if answer.error]
    assert pool.template._process.pid != template.pid


def test_no_image_is_blamed_for_the_end_of_the_template(poisoned):
    """Of how a child ended nothing is known then: its first image is decoded once more."""
    answers = []

    def decode():
        answers.extend(_decode_all(poisoned, [_poison("hang")], seconds=3)[0])

    decoding = threading.Thread(target=decode)
    decoding.start()
    busy = []
    while not busy:
        children = [driver._child for driver in poisoned._drivers]
        busy = [one for one in children if one and one._mark.get()[1] == sandbox.DECODE]
    os.kill(poisoned.template._process.pid, signal.SIGKILL)
    os.kill(busy[0]._process.pid, signal.SIGKILL)
    decoding.join()
    assert [answer.error.status for answer in answers] == ["decode_timeout"]


def test_a_fork_of_the_process_that_closes_its_pool_leaves_the_children_alone(pool):
    processes = _processes(pool)
    child = os.fork()
    if not child:
        pool.close()
        os._exit(0)
    assert os.waitpid(child, 0) == (child, 0)
    answers, _ = _decode_all(pool, [_jpeg(seed) for seed in range(8)])
    assert not [answer.error for answer in answers if answer.error]
    assert _processes(pool) == processes


def test_children_that_cannot_start_are_an_error_and_no_hang(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('no room on this machine')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with (
        Pool(processes=1) as one,
        pytest.raises(DecodersError, match="no room on this machine"),
    ):
        one.decode(_jpeg(), SPEC, np.zeros(SPEC.shape, np.uint8))


@pytest.mark.parametrize("lacks", ["a process", "a thread"])
def test_what_cannot_be_begun_for_lack_of_memory_is_an_error_and_no_hang(lacks, monkeypatch):
    def refuse(*_):
        raise RuntimeError("no memory for it")

    with Pool(processes=2) as one:
        if lacks == "a process":
            monkeypatch.setattr(pool_module, "Child", refuse)
        else:
            monkeypatch.setattr(one._drivers[1], "start", refuse)
        for _ in range(2):
            said = []

            def ask(said=said):
                try:
                    one.decode(_jpeg(), SPEC, np.zeros(SPEC.shape, np.uint8))
                except RuntimeError as error:
                    said.append(str(error))

            asking = threading.Thread(target=ask, daemon=True)
            asking.start()
            asking.join(30)
            assert said == ["no memory for it"]


def test_a_request_that_cannot_be_sent_is_an_error_and_no_hang():
    with Pool(processes=1) as pool, pytest.raises(TypeError, match="bytes-like"):
        pool.decode("no bytes", SPEC, np.empty(SPEC.shape, np.uint8))


def test_a_child_is_confined():
    with Pool(processes=1) as pool:
        pool.decode(_jpeg(), SPEC, np.zeros(SPEC.shape, np.uint8))
        [process] = _processes(pool)
        assert os.readlink(f"/proc/{process.pid}/cwd") == "/"
        limits = pathlib.Path(f"/proc/{process.pid}/limits").read_text()
    soft = {line[:26].strip(): line[26:].split()[0] for line in limits.splitlines()[1:]}
    assert soft["Max core file size"] == "0"
    assert soft["Max open files"] == str(sandbox.OPEN_FILES)
    assert soft["Max address space"] == str(pool.limits.decode_memory)


ORPHANS = """
import sys, time, numpy as np, threading
from imagecensus.model_export.preprocess import PreprocessSpec
from imagecensus.transforms.decoders.pool import Pool
pool = Pool(processes=1)
data = b"\\xff\\xd8\\xffPOISON:lock"
out = np.zeros((8, 8, 3), np.uint8)
asked = (data, PreprocessSpec(height=8, width=8), out)
threading.Thread(target=pool.decode, args=asked, daemon=True).start()
while pool._drivers[0]._child is None or pool._drivers[0]._child._mark.get()[1] != 3:
    time.sleep(0.01)
print(pool._drivers[0]._child._process.pid, flush=True)
time.sleep(60)
"""


def test_a_child_that_hangs_ends_with_its_parent():
    with subprocess.Popen(
        [sys.executable, "-c", ORPHANS],
        env={**os.environ, "PYTHONPATH": POISON},
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        child = int(parent.stdout.readline())
        parent.kill()
    for _ in range(100):
        try:
            os.kill(child, 0)
            state = pathlib.Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return
        if state == "Z":
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the child outlived its parent")


def test_closing_leaves_no_process_and_no_descriptor():
    def held():
        return len(os.listdir("/proc/self/fd"))

    before = held()
    one = Pool(processes=2)
    one.decode(_jpeg(), SPEC, np.zeros(SPEC.shape, np.uint8))
    children = _processes(one)
    one.close()
    assert len(children) == 2
    assert all(child.returncode is not None for child in children)
    assert held() == before
    with pytest.raises(RuntimeError, match="closed"):
        one.decode(_jpeg(), SPEC, np.zeros(SPEC.shape, np.uint8))


_STARTED = """
import json
import os
from imagecensus.transforms.decoders.pool import Pool
from imagecensus.transforms.image_ref import ImageRef

def stat(pid):
    words = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return {"group": words[2], "session": words[3], "terminal": words[4], "nice": int(words[16])}

with Pool(processes=1) as pool:
    try:
        pool.read(ImageRef(uri="a.tar#b", container="a.tar", member='["tar", 0, 1]'), 1)
    except Exception:
        pass
    child = pool._drivers[0]._child._process.pid
    print(json.dumps([stat(os.getpid()), stat(child)]))
"""


def test_children_let_others_go_first_and_have_no_terminal():
    """Neither a Ctrl-C reaches them nor a way to type into the terminal."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", 0) as terminal:
        process = subprocess.Popen(
            [sys.executable, "-c", _STARTED], stdin=theirs, stdout=subprocess.PIPE,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(theirs)
        said, _ = process.communicate(timeout=60)
        assert not terminal.closed
    parent, child = json.loads(said)
    assert parent["terminal"] != "0" and child["terminal"] == "0"
    assert child["group"] != parent["group"] and child["session"] == parent["session"]
    assert child["nice"] == parent["nice"] + sandbox.NICENESS
