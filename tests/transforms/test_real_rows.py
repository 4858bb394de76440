"""On real photos and broken files: rows depend on no engine, batch or thread count."""

import numpy as np
import pyarrow as pa
import pytest
from samples import SHARED_DATA

from imagecensus.model_export.preprocess import PreprocessSpec, configure_pillow
from imagecensus.transforms.decode_images import ReadAhead
from imagecensus.transforms.decoders.decode_batch import DecodingConfig, Pools
from imagecensus.transforms.engines.registry import ENGINES, load_engine
from imagecensus.transforms.records import REF_SCHEMA, Unit

pytestmark = pytest.mark.real_data
WEIGHTS = SHARED_DATA / "weights" / "mobilenet_v2_1.0_224.weights.h5"
EVERY = 80


@pytest.fixture(scope="module")
def refs() -> pa.RecordBatch:
    """One file in eighty of every kind, and all the awkward ones."""
    files = [p for p in sorted(SHARED_DATA.rglob("*")) if p.is_file()]
    awkward = [p for p in files if "awkward" in p.parts]
    rest = [p for p in files if "awkward" not in p.parts and "weights" not in p.parts]
    uris = [str(p) for p in awkward + rest[::EVERY]]
    nothing = pa.nulls(len(uris), pa.string())
    sizes = pa.array([-1] * len(uris), pa.int64())
    return pa.record_batch(
        [pa.array(uris), sizes, pa.array([""] * len(uris)), nothing, nothing], schema=REF_SCHEMA
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    import keras

    from imagecensus.model_export.default_model import imagenet_labels, make_golden_images
    from imagecensus.model_export.export import export_classifier

    folder, spec = str(tmp_path_factory.mktemp("real") / "model"), PreprocessSpec()
    export_classifier(
        keras.applications.MobileNetV2(weights=str(WEIGHTS)),
        spec,
        imagenet_labels(),
        folder,
        name="mobilenet_v2_1.0_224",
        golden_images=make_golden_images(spec),
        embedding_layer=None,
    )
    return folder


def decoded(refs, **config):
    """All batches of a unit put together: (status, pixels of the good ones)."""
    configure_pillow()
    config = DecodingConfig(spec=PreprocessSpec(), **config)
    pools = Pools(config)
    unit = Unit(name="u", plan="plan", row_group=0, rows=refs.num_rows)
    ahead = ReadAhead(config, pools)
    batches = [*ahead.add(unit, refs), *ahead.rest()]
    pools.close()
    return sum((b.status for b in batches), []), np.concatenate([b.pixels for b in batches])


@pytest.fixture(scope="module")
def found(refs):
    return decoded(refs)


@pytest.fixture(scope="module")
def pixels(found):
    return found[1]


def test_pixels_depend_on_no_cut_and_no_thread_count(refs, found):
    status, pixels = found
    assert len(set(status)) > 3, "broken files are among them"
    for config in ({"threads": 1, "batch_images": 64}, {"threads": 5, "batch_images": 7}):
        other_status, other_pixels = decoded(refs, **config)
        assert other_status == status
        np.testing.assert_array_equal(other_pixels, pixels)


def test_engines_give_equal_labels(model, pixels):
    expected = load_engine("tensorflow", model).infer(pixels)
    for name in ENGINES:
        class_ids, scores, _ = load_engine(name, model).infer(pixels)
        np.testing.assert_array_equal(class_ids[:, 0], expected[0][:, 0], err_msg=name)
        np.testing.assert_allclose(scores, expected[1], atol=1e-4, rtol=0, err_msg=name)


@pytest.mark.parametrize("threads", [1, 3])
def test_openvino_answers_alike_in_any_batch_on_any_threads(model, pixels, threads):
    pixels = pixels[:101]
    whole = load_engine("openvino", model).infer(pixels)
    engine = load_engine("openvino", model, threads=threads)
    for size in (1, 10):
        parts = [engine.infer(pixels[at : at + size]) for at in range(0, len(pixels), size)]
        class_ids, scores, _ = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        np.testing.assert_array_equal(class_ids, whole[0])
        np.testing.assert_allclose(scores, whole[1], atol=1e-6, rtol=0)
