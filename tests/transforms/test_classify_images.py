"""From decoded batches to rows: alignment, bisection, engines that agree."""

import numpy as np
import pytest
from samples import LABELS

from imagecensus.model_export.contract import ModelError, read_golden
from imagecensus.transforms.classify_images import ClassifierHandler
from imagecensus.transforms.engines.classify_batch import (
    ClassificationConfig,
)
from imagecensus.transforms.engines.registry import choose_engine


def test_loading_checks_the_golden_images(tiny_model, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    loaded = ClassifierHandler(
        ClassificationConfig(model=str(copy), engine="openvino")
    ).load_model()
    assert loaded.labels.to_pylist() == LABELS
    golden = read_golden(str(copy))
    np.savez(
        copy / "assets.extra" / "golden.npz",
        images=golden.images,
        class_ids=golden.class_ids,
        scores=golden.scores[:, ::-1],
    )
    with pytest.raises(ModelError, match="files changed since the export"):
        ClassifierHandler(ClassificationConfig(model=str(copy), engine="openvino")).load_model()
    class_ids, scores, _ = loaded.engine.infer(golden.images)
    with pytest.raises(ModelError, match="golden images' scores differ"):
        read_golden(str(copy)).check(class_ids, scores, "copy")


def test_the_engine_that_a_worker_chose_is_reported(tiny_model):
    handler = ClassifierHandler(ClassificationConfig(model=str(tiny_model), engine="auto"))
    assert handler.load_model().name == choose_engine("auto")
