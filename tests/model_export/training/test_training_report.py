"""Figures and plots of a training: from known answers to what the report says."""

import numpy as np
import pytest
from PIL import Image
from tables import row, write_table

from imagecensus.jobs.evaluate import evaluate
from imagecensus.model_export.contract import Contract
from imagecensus.model_export.preprocess import PreprocessSpec
from imagecensus.model_export.training import evaluation
from imagecensus.model_export.training.decoded_images import Images
from imagecensus.model_export.training.report import worst_mistakes, write_training_report

LABELS = ("cat", "<b>dog</b>", "$cow$")
# Right, wrong and sure, wrong and unsure, right.
ANSWERS = np.asarray(
    [[0.9, 0.1, 0.0], [0.95, 0.05, 0.0], [0.3, 0.3, 0.4], [0.0, 0.1, 0.9]], np.float32
)
TRUE = np.asarray([0, 1, 1, 2], np.int32)


@pytest.fixture
def images():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
    names = tuple(f"/p/{i}.jpg" for i in range(4))
    return Images(pixels=pixels, rows=np.arange(4), labels=TRUE, names=names)


def test_figures_of_known_answers():
    figures = evaluation.evaluate(ANSWERS, TRUE)
    assert figures["examples"] == 4 and figures["accuracy"] == 0.5
    assert figures["loss"] == pytest.approx(-np.log([0.9, 0.05, 0.3, 0.9]).mean())
    assert figures["macro_recall"] == pytest.approx((1 + 0 + 1) / 3)
    assert figures["macro_precision"] == pytest.approx((0.5 + 0 + 0.5) / 3)
    assert evaluation.confusion(ANSWERS, TRUE).tolist() == [[1, 0, 0], [1, 0, 1], [0, 0, 1]]
    # The tops 0.9 and 0.9 share one of 15 bins and are right; 0.95 and 0.4 are wrong.
    expected = (2 * abs(0.9 - 1) + 0.95 + 0.4) / 4
    assert figures["calibration_error"] == pytest.approx(expected, abs=1e-6)
    assert evaluation.evaluate(ANSWERS[:0], TRUE[:0]) == {"examples": 0}


def test_training_and_evaluate_give_the_same_figures(tmp_path):
    rng = np.random.default_rng(3)
    answers = rng.dirichlet(np.full(4, 0.3), 60).astype(np.float32)
    true = rng.integers(0, 3, 60)  # the fourth class is answered, and never true
    figures = evaluation.evaluate(answers, true)
    rows = [
        row(
            f"/{'abcd'[t]}/{i}.jpg",
            sorted(zip("abcd", a.tolist(), strict=True), key=lambda x: -x[1]),
        )
        for i, (a, t) in enumerate(zip(answers, true, strict=True))
    ]
    told = evaluate(write_table(tmp_path / "out", rows), "parent")
    assert figures["accuracy"] == told["accuracy"]["value"]
    assert figures["top5_accuracy"] == told["top_k_accuracy"]["4"]["value"] == 1
    for name in ("precision", "recall", "f1"):
        assert figures[f"macro_{name}"] == pytest.approx(told["average"]["macro"][name])
    assert figures["calibration_error"] == pytest.approx(told["calibration"]["ece"], abs=1e-6)


def test_the_surest_mistakes_come_first(images):
    found = worst_mistakes(LABELS, images, ANSWERS)
    assert [item["name"] for item in found] == ["/p/1.jpg", "/p/2.jpg"]
    assert [item["predicted"] for item in found] == ["cat", "$cow$"]
    assert len(worst_mistakes(LABELS, images, ANSWERS, limit=1)) == 1


@pytest.mark.parametrize("right", [False, True])
def test_one_page_and_a_png_for_each_plot(tmp_path, images, right):
    answers = np.eye(3, dtype=np.float32)[TRUE] if right else ANSWERS
    contract = Contract(
        name="net",
        preprocess=PreprocessSpec(height=16, width=16),
        labels=LABELS,
        top_k=3,
        embedding_size=4,
        training={},
        metrics={"test": evaluation.evaluate(answers, TRUE)},
        package_version="0",
    )
    entry = {"epoch": 0, "loss": 1.0, "accuracy": 0.5, "val_loss": 1.1, "val_accuracy": 0.4}
    history = [{"phase": phase, **entry} for phase in ("head", "head", "fine-tune")]
    page = write_training_report(
        str(tmp_path),
        contract=contract,
        history=history,
        split_name="test",
        images=images,
        probabilities=answers,
        broken=(),
        seconds={"fit": 1.0},
    )
    with open(page, encoding="utf-8") as file:
        text = file.read()
    assert "<b>dog</b>" not in text and "&lt;b&gt;dog" in text
    assert text.count("data:image/jpeg;base64,") == (0 if right else 2)
    assert "http" not in text.replace("http-equiv", "")
    names = {path.stem for path in (tmp_path / "plots").iterdir()}
    assert names == {"curves", "confusion", "per_class", "calibration", "worst_mistakes"}
    for name in names:
        image = Image.open(tmp_path / "plots" / f"{name}.png")
        assert image.format == "PNG" and np.asarray(image.convert("L")).std() > 5
