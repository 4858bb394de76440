"""The checks of an exported model: a good one passes, each damage is found."""

import os
import shutil

import numpy as np
import pytest

from imagecensus.model_export.contract import ModelError, model_digest, read_contract, read_golden
from imagecensus.model_export.verify import check_model, compare_in_fresh_process, readable_in_graph


@pytest.fixture
def model(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


def failed(directory):
    return [finding.check for finding in check_model(str(directory)) if not finding.ok]


def test_a_good_model_has_no_findings_against_it(model):
    findings = check_model(str(model))
    assert all(finding.ok for finding in findings), findings
    assert [finding.check for finding in findings][:3] == ["contract", "signatures", "frozen"]


def test_a_changed_file_is_found(model):
    with open(model / "saved_model.pb", "ab") as file:
        file.write(b"\0")
    assert failed(model) == ["contract"]


def test_other_answers_are_found_behind_a_right_digest(model):
    golden = read_golden(str(model))
    path = model / "assets.extra" / "golden.npz"
    scores = golden.scores[:, ::-1]
    np.savez(path, images=golden.images, class_ids=golden.class_ids, scores=scores)
    contract = model / "assets.extra" / "contract.json"
    old = read_contract(str(model), verify_digest=False).digest
    contract.write_text(contract.read_text().replace(old, model_digest(str(model))))
    assert failed(model) == ["golden images", "golden images as PNG bytes"]


def test_no_model_at_all(tmp_path):
    assert failed(tmp_path) == ["contract"]
    assert failed(tmp_path / "absent") == ["contract"]


def test_another_model_does_not_pass_the_proof(model):
    golden = read_golden(str(model))
    size = read_contract(str(model)).embedding_size
    with pytest.raises(ModelError, match="is not the model that was trained: serving_default"):
        compare_in_fresh_process(
            str(model),
            golden.images,
            [_png(image) for image in golden.images],
            np.full((len(golden.images), 4), 0.25, np.float32),
            np.zeros((len(golden.images), size), np.float32),
        )
    assert os.path.isdir(model)


def _png(image):
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("mode, comparable", [("L", True), ("RGB", True), ("CMYK", False)])
def test_which_files_both_decoders_read_alike(tmp_path, mode, comparable):
    from PIL import Image

    Image.new(mode, (8, 8)).save(tmp_path / "a.jpg")
    assert readable_in_graph((tmp_path / "a.jpg").read_bytes()) is comparable
