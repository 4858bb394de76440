"""The TensorFlow engine's calls, their size chosen as on a GPU: by a race, here of the CPU."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf
from samples import LABELS, export_tiny, photo

from imagecensus.jobs.cli import main
from imagecensus.transforms.engines import tensorflow_engine
from imagecensus.transforms.engines.race import repeated
from imagecensus.transforms.engines.tensorflow_engine import TensorFlowEngine

SIZES = (2, 8, 32)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGECENSUS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "calls"


@pytest.fixture
def photos():
    return np.stack([np.asarray(photo(i, (32, 32))) for i in range(37)])


@pytest.fixture
def hungry_model(tmp_path):
    """A SavedModel whose calls of more than 10 images ask for more memory than there is."""

    class Hungry(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 3], tf.uint8, name="images")])
        def answer(self, images):
            rows = tf.shape(images)[0]
            mean = tf.reduce_mean(tf.cast(images, tf.float32), [1, 2, 3])
            room = tf.where(rows > 10, tf.constant(2**45, tf.int64), 1)
            zero = tf.reduce_max(tf.tile(mean[:1], room[None])) * 0
            scores = tf.stack([mean + zero, mean], 1)
            ids = tf.zeros_like(scores, tf.int32)
            return {"class_ids": ids, "scores": scores, "embedding": scores}

    module, folder = Hungry(), str(tmp_path / "hungry")
    tf.saved_model.save(module, folder, signatures={"serving_default": module.answer})
    return folder


def test_the_smallest_call_that_is_nearly_as_fast_is_taken_and_kept(
    tiny_model, photos, cache, caplog, monkeypatch
):
    caplog.set_level("INFO", "imagecensus")
    engine = TensorFlowEngine(tiny_model, 2)
    before = engine.infer(photos)
    engine.choose_call_images(tiny_model, "a CPU", SIZES)
    rates = json.loads(next(cache.iterdir()).read_text())["images_per_second"]
    fast = [size for size in SIZES if rates[str(size)] >= 0.95 * max(rates.values())]
    assert list(rates) == ["2", "8", "32"] and engine.note == f"{fast[0]} images each on a CPU"
    assert engine.note in caplog.text and f"{rates['32']:,.0f}" in caplog.text
    for batch in (1, 5, 36):
        parts = [engine.infer(photos[i : i + batch]) for i in range(0, len(photos), batch)]
        for whole, cut in zip(before, zip(*parts, strict=True), strict=True):
            np.testing.assert_allclose(np.concatenate(cut), whole, atol=1e-5, rtol=0)
    monkeypatch.setattr(tensorflow_engine, "race", None)  # once is enough
    again = TensorFlowEngine(tiny_model, 2)
    again.choose_call_images(tiny_model, "a CPU", SIZES)
    assert again.note == engine.note
    with pytest.raises(TypeError):
        again.choose_call_images(tiny_model, "another CPU", SIZES)


def test_a_call_that_finds_no_memory_ends_the_race(hungry_model):
    engine = TensorFlowEngine(hungry_model, 2)
    images = repeated(np.arange(3 * 48, dtype=np.uint8).reshape(3, 4, 4, 3), 64)
    rates = engine.race_calls(images, (2, 8, 16, 32))
    assert list(rates) == ["2", "8"] and all(rate > 0 for rate in rates.values())
    with pytest.raises(tf.errors.ResourceExhaustedError):
        engine.race_calls(images, (16, 32))


def test_memory_that_was_there_in_the_race_and_is_no_more_makes_calls_smaller(hungry_model, caplog):
    engine = TensorFlowEngine(hungry_model, 2)
    engine._call_images = 32
    images = np.arange(20 * 48, dtype=np.uint8).reshape(20, 4, 4, 3)
    _, scores, _ = engine.infer(images)
    np.testing.assert_allclose(scores[:, 1], images.reshape(20, -1).mean(1), rtol=1e-5)
    assert engine._call_images == 8 and "calls are of 8 from now on" in caplog.text


def test_float32_is_float32():
    """A GPU would compute with 10 bits of mantissa, and fail the golden images."""
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


def test_the_report_says_how_large_calls_were(tmp_path, monkeypatch, capsys):
    """A run of a process whose engine has measured its calls."""
    model = export_tiny(tmp_path / "model", labels=LABELS)
    for i in range(3):
        (tmp_path / "photos").mkdir(exist_ok=True)
        photo(i, (40, 40)).save(tmp_path / "photos" / f"{i}.png")

    def load(model, precision, threads):
        engine = TensorFlowEngine(model, threads)
        engine.choose_call_images(model, "a CPU", SIZES)
        return engine

    monkeypatch.setattr(tensorflow_engine, "load", load)
    words = ["classify", str(tmp_path / "photos"), "--output", str(tmp_path / "out")]
    assert main([*words, "--model", model, "--engine=tensorflow"]) == 0
    report = json.loads((tmp_path / "out" / "run_report.json").read_text())
    assert len(report["calls"]) == 1 and report["calls"][0].endswith("images each on a CPU")
    assert f"calls      {report['calls'][0]}" in capsys.readouterr().out
    assert os.listdir(tmp_path / "cache" / "calls")
