"""The job's counters, declared in one place."""

from __future__ import annotations

from apache_beam.metrics import Metrics

from imagecensus.transforms.engines.registry import ENGINES
from imagecensus.transforms.records import NOTED

NAMESPACE = "imagecensus"

UNITS = Metrics.counter(NAMESPACE, "units")
IMAGES_READ = Metrics.counter(NAMESPACE, "images_read")
BYTES_READ = Metrics.counter(NAMESPACE, "bytes_read")
IMAGES_OK = Metrics.counter(NAMESPACE, "images_ok")
IMAGES_FAILED = Metrics.counter(NAMESPACE, "images_failed")
NOT_IMAGES = Metrics.counter(NAMESPACE, "not_images")  # by their names; they did not fail
# Of runs whose workers choose their engine: the images that each engine was given.
IMAGES_BY_ENGINE = {name: Metrics.counter(NAMESPACE, f"images_in_{name}") for name in ENGINES}
PARTS_WRITTEN = Metrics.counter(NAMESPACE, "parts_written")
UNITS_FENCED = Metrics.counter(NAMESPACE, "units_fenced")  # a later run has begun: not done
IMAGES_SLOW = Metrics.counter(NAMESPACE, "images_slow")  # over a second to read or to decode
# What batches bring along: halved as the engine failed on them, answered as a copy before, `NOTED`.
IN_BATCHES = {
    name: Metrics.counter(NAMESPACE, name) for name in ("batches_split", "images_copied", *NOTED)
}
CALLS = Metrics.string_set(NAMESPACE, "calls")  # of engines that measured how large theirs are
SLOW = Metrics.string_set(NAMESPACE, "slow")  # which, as JSON: uri, stage, seconds
