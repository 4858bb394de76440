"""Engines: they agree, and the one that fits a machine is chosen."""

import numpy as np
import pytest
from samples import photo

from imagecensus.transforms.engines import registry
from imagecensus.transforms.engines.registry import ENGINES, EngineError, choose_engine, load_engine


@pytest.fixture(scope="module")
def photos():
    return np.stack([np.asarray(photo(i, (32, 32))) for i in range(37)])


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_answers_alike_in_any_batch(tiny_model, photos, engine):
    loaded = load_engine(engine, tiny_model)
    whole = loaded.infer(photos)
    for size in (1, 2, 5, 36):
        parts = [loaded.infer(photos[i : i + size]) for i in range(0, len(photos), size)]
        for together, apart in zip(whole, zip(*parts, strict=True), strict=True):
            np.testing.assert_allclose(together, np.concatenate(apart), atol=1e-6, rtol=0)


def test_engines_agree(tiny_model, photos):
    answers = {name: load_engine(name, tiny_model).infer(photos) for name in ENGINES}
    for class_ids, scores, embeddings in answers.values():
        np.testing.assert_array_equal(class_ids, answers["tensorflow"][0])
        np.testing.assert_allclose(scores, answers["tensorflow"][1], atol=1e-4, rtol=0)
        if embeddings.size:
            np.testing.assert_allclose(embeddings, answers["tensorflow"][2], atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "installed, gpu, precision, chosen",
    [
        ("openvino tensorflow", False, "f32", "openvino"),
        ("openvino tensorflow", True, "f32", "tensorflow"),
        ("openvino tensorflow", True, "int8", "openvino"),
        ("tensorflow", False, "f32", "tensorflow"),
        ("openvino", True, "auto", "openvino"),
    ],
)
def test_each_machine_chooses_an_engine_of_its_own(installed, gpu, precision, chosen, monkeypatch):
    monkeypatch.setattr(registry, "_installed", lambda package: package in installed.split())
    monkeypatch.setattr(registry, "has_gpu", lambda: gpu)
    assert choose_engine("auto", precision) == chosen
    assert choose_engine("auto", precision, here=False) == "auto"


def test_a_machine_without_an_engine_says_so(monkeypatch):
    monkeypatch.setattr(registry, "_installed", lambda package: False)
    assert choose_engine("tensorflow", here=False) == "tensorflow", "workers may have it"
    for name in ("auto", "tensorflow"):
        with pytest.raises(EngineError, match="is not installed"):
            choose_engine(name)


def test_engine_choice_names_what_is_wrong():
    assert choose_engine("auto") in ("openvino", "tensorflow")
    with pytest.raises(EngineError, match="choose one of auto, openvino"):
        choose_engine("onnx")
    with pytest.raises(EngineError, match="precision=f8"):
        choose_engine("openvino", "f8")
    with pytest.raises(EngineError, match="tfx-bsl: gives no embeddings"):
        choose_engine("tfx-bsl", embeddings=True)
