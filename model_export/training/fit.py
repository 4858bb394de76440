"""Fitting a network: the same on one replica and on many, and after a kill.

Everything random is a function of the seed and the epoch: the order of the images, their
augmentation, the dropout. After each epoch the whole state is written in one atomic file, so that
a training killed at any instant goes on from its last epoch and ends with the same weights.

`batch_size` is the global batch: N replicas take 1/N of it each, and the gradient is its mean, so
that the number of GPUs changes the speed and not the result. Each batch is full (the last few
images of an epoch's shuffle wait for another epoch), which keeps that mean exact.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from imagecensus.model_export.common.atomic import atomic_path
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.common.quantities import counted


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitSpec:
    """How one network is fitted."""

    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 1e-3
    schedule: str = "constant"  # or "cosine": down to zero over the epochs
    label_smoothing: float = 0.0
    patience: int = 5  # epochs without a better validation loss; 0 never stops early
    seed: int = 0
    average: float = 0.0  # momentum of the weights' running average, which is kept; 0: none


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepare:
    """How bytes become what a network takes: augmented in training, and normalised.

    GPUs do it themselves, so that they get bytes and a few numbers for each image. Elsewhere it
    is done ahead of the network, beside it: it shares the cores either way.

    Attributes:
      draw: a seed [2] and a number of images B -> float32 [B, changes]: what happens to each.
      apply: uint8 [B, H, W, 3] and what was drawn (None outside of training) -> float32 tensor.
      changes: numbers drawn for an image.
    """

    draw: Callable[[Any, int], Any]
    apply: Callable[[Any, Any], Any]
    changes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a network is fitted on: images, or features computed before.

    Attributes:
      take: int64 [B] indices -> array [B, ...].
      labels: int32 [N].
      prepare: what is done with it; None: the network takes it as it is.
      dtype: of what `take` returns.
      shape: of one item.
    """

    take: Callable[[np.ndarray], np.ndarray]
    labels: np.ndarray
    dtype: type[np.generic]
    shape: tuple[int, ...]
    prepare: Prepare | None = None

    def __len__(self) -> int:
        return len(self.labels)


def make_strategy(replicas: int = 0) -> tf.distribute.MirroredStrategy:
    """Over all GPUs, or over the CPU's logical devices where there is none; or the first few.

    Raises:
      UserError: more replicas than devices.
    """
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if replicas > len(devices):
        raise UserError(
            f"--replicas {replicas}: this machine has {counted(len(devices), 'device')}"
        )
    chosen = devices[: replicas or len(devices)]
    return tf.distribute.MirroredStrategy([device.name for device in chosen])


def global_batch(requested: int, examples: int, replicas: int) -> int:
    """The largest batch within the request and the data that splits evenly.

    Raises:
      UserError: fewer examples than replicas.
    """
    batch = min(requested, examples) // replicas * replicas
    if batch < 1:
        raise UserError(
            f"{examples} training images and --batch-size {requested} cannot be split over"
            f" {replicas} replicas; raise --batch-size or hide some devices"
        )
    return batch


def class_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """float32 [classes]: the rarer the class the heavier, 1 on average over the images."""
    counts = np.bincount(labels, minlength=classes)
    return (len(labels) / (classes * np.maximum(counts, 1))).astype(np.float32)


def fit(
    model: keras.Model,
    train: Inputs,
    val: Inputs,
    spec: FitSpec,
    *,
    strategy: tf.distribute.Strategy,
    state_file: str,
    weights: np.ndarray | None = None,
    log_dir: str | None = None,
    verbose: bool = True,
) -> list[dict[str, Any]]:
    """Fits a model in place and leaves it with the weights of its best epoch.

    Args:
      model: built in the strategy's scope; its `trainable` flags say what is fitted.
      train, val: what to fit on, and what chooses the best epoch (the training loss does where
        it is empty).
      spec: how.
      strategy: that the model was built under.
      state_file: written after each epoch, read first: where it exists the fit goes on.
      weights: float32 [classes], of each class in the loss.
      log_dir: for TensorBoard.
      verbose: progress bars on a terminal, a line per epoch elsewhere.

    Returns:
      One dict per epoch: epoch, loss, accuracy, val_loss, val_accuracy, seconds.
    """
    batch = global_batch(spec.batch_size, len(train), strategy.num_replicas_in_sync)
    steps = len(train) // batch
    classes = model.output_shape[-1]
    whole = _prepared(model, train, changes=True)
    with strategy.scope():
        rate = spec.learning_rate
        if spec.schedule == "cosine":
            rate = keras.optimizers.schedules.CosineDecay(rate, steps * spec.epochs)
        averaging = {"use_ema": True, "ema_momentum": spec.average} if spec.average else {}
        optimizer = keras.optimizers.Adam(rate, **averaging)
        whole.compile(
            optimizer,
            keras.losses.CategoricalCrossentropy(label_smoothing=spec.label_smoothing),
            metrics=["accuracy"],
            jit_compile=False,  # XLA and MirroredStrategy do not go together in Keras 3
        )
        # Keras may have put another optimizer around it, which scales the loss of 16-bit networks.
        whole.optimizer.build(whole.trainable_variables)
    state = _TrainingState(model, whole.optimizer, val, spec, state_file=state_file, batch=batch)
    if state.next_epoch < spec.epochs and not state.finished:
        callbacks: list[keras.callbacks.Callback] = [state]
        if log_dir:
            callbacks.append(keras.callbacks.TensorBoard(log_dir, write_graph=False))
        whole.fit(
            stream(
                train,
                batch=batch,
                spec=spec,
                weights=np.ones(classes, np.float32) if weights is None else weights,
                first_epoch=state.next_epoch,
            ),
            epochs=spec.epochs,
            initial_epoch=state.next_epoch,
            steps_per_epoch=steps,
            shuffle=False,  # the stream is shuffled
            callbacks=callbacks,
            verbose=0 if not verbose else 1 if sys.stderr.isatty() else 2,
        )
    state.restore_best()
    return state.history


def predict(model: keras.Model, inputs: Inputs, batch: int, seed: int | None = None) -> np.ndarray:
    """The model's answers in order, over all replicas.

    Args:
      model: any, of one output.
      inputs: what to answer.
      batch: global.
      seed: where given, images are prepared as in training.

    Returns:
      float32 [N, ...].
    """
    if not len(inputs):
        return np.zeros((0, *model.output_shape[1:]), np.float32)

    def load(step: Any, indices: Any) -> tuple[Any]:
        key = None if seed is None else tf.stack([tf.constant(seed, tf.int64), step])
        return (_load(inputs, indices, batch, key),)

    # Padded to whole batches: one graph, and an even share for each replica.
    padded = -(-len(inputs) // batch) * batch
    order = np.minimum(np.arange(padded), len(inputs) - 1)
    dataset = tf.data.Dataset.from_tensor_slices(order).batch(batch, drop_remainder=True).repeat()
    dataset = _unsharded(dataset.enumerate().map(load, 2, deterministic=True).prefetch(2))
    whole = _prepared(model, inputs, changes=seed is not None)
    answers = whole.predict(dataset, verbose=0, steps=padded // batch)
    return np.asarray(answers, np.float32)[: len(inputs)]


def cross_entropy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -log(probability of the true class)."""
    chosen = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.clip(chosen, 1e-7, 1)).mean()) if len(labels) else float("nan")


def on_device() -> bool:
    """Whether `Prepare` is the devices' part."""
    return bool(tf.config.list_logical_devices("GPU"))


class _Prepare(keras.layers.Layer):
    """`Prepare` as the first layer of a network."""

    def __init__(self, prepare: Prepare) -> None:
        super().__init__(trainable=False, dtype="float32", autocast=False)
        self._prepare = prepare

    def call(self, inputs: list[Any]) -> Any:
        return self._prepare.apply(inputs[0], inputs[1] if len(inputs) > 1 else None)


@functools.lru_cache(maxsize=2)  # one to train and one to validate: making it costs a second
def _with_prepare(
    model: keras.Model, prepare: Prepare, shape: tuple[int, ...], changes: bool
) -> keras.Model:
    with model.distribute_strategy.scope():
        inputs = [keras.Input(shape, dtype="uint8")]
        if changes:
            inputs.append(keras.Input((prepare.changes,)))
        return keras.Model(inputs, model(_Prepare(prepare)(inputs)))


def _prepared(model: keras.Model, inputs: Inputs, *, changes: bool) -> keras.Model:
    """The network with what the devices do before it; `changes`: in training."""
    if inputs.prepare is None or not on_device():
        return model
    return _with_prepare(model, inputs.prepare, inputs.shape, changes)


def _load(inputs: Inputs, indices: Any, batch: int, seed: Any) -> Any:
    """One batch as `_prepared` takes it. `seed`: int64 [2] in training, else None."""
    items = tf.numpy_function(inputs.take, [indices], inputs.dtype)
    items = tf.ensure_shape(items, [batch, *inputs.shape])
    if inputs.prepare is None:
        return items
    changes = None if seed is None else inputs.prepare.draw(seed, batch)
    if not on_device():
        return inputs.prepare.apply(items, changes)
    return items if changes is None else (items, changes)


def stream(
    train: Inputs, *, batch: int, spec: FitSpec, weights: np.ndarray, first_epoch: int
) -> tf.data.Dataset:
    """The epochs from the first one asked for, as one endless dataset of full batches."""
    count, steps = len(train), len(train) // batch
    labels = tf.constant(train.labels)
    class_weight = tf.constant(weights)

    def shuffled(epoch: Any) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(
            tf.range(count, dtype=tf.int64), seed=tf.stack([tf.cast(spec.seed, tf.int64), epoch])
        )
        return tf.data.Dataset.from_tensor_slices(order[: steps * batch])

    def load(step: Any, indices: Any) -> tuple[Any, Any, Any]:
        seed = tf.stack([tf.cast(spec.seed, tf.int64), step])
        label = tf.gather(labels, indices)
        return (
            _load(train, indices, batch, seed),
            tf.one_hot(label, len(weights)),
            tf.gather(class_weight, label),
        )

    # Endless: `steps_per_epoch` says where an epoch ends, for each replica at the same step.
    dataset = tf.data.Dataset.range(first_epoch, 2**62).flat_map(shuffled)
    dataset = dataset.batch(batch, drop_remainder=True).enumerate(first_epoch * steps)
    return _unsharded(dataset.map(load, tf.data.AUTOTUNE, deterministic=True).prefetch(2))


def _unsharded(dataset: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options)


class _TrainingState(keras.callbacks.Callback):
    """Validates, keeps the best epoch, stops early, and writes the state after each epoch."""

    def __init__(
        self,
        network: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        val: Inputs,
        spec: FitSpec,
        *,
        state_file: str,
        batch: int,
    ) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.network, self.val, self.spec, self.batch = network, val, spec, batch
        self.state_file = state_file
        self.history: list[dict[str, Any]] = []
        self.best_epoch, self.best_score = -1, float("inf")
        self.best_weights = network.get_weights()
        self.finished = False
        if os.path.exists(state_file):
            self._read_state()

    @property
    def next_epoch(self) -> int:
        return len(self.history)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.started = time.perf_counter()
        # Dropout's state is set from the epoch, so that a resumed run drops the same units.
        generators = {
            id(generator): generator
            for layer in self.network._flatten_layers()
            for generator in _seed_generators(layer)
        }
        for index, generator in enumerate(generators.values()):
            seed = np.random.default_rng([self.spec.seed, epoch, index])
            generator.state.assign(seed.integers(2**31, size=2).astype("uint32"))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        assert logs is not None  # Keras passes them
        entry = {"epoch": epoch, "loss": float(logs["loss"]), "accuracy": float(logs["accuracy"])}
        score = entry["loss"]
        now = self.network.get_weights()
        # What is validated and kept is the average of the weights, where one is asked for; the
        # fit itself goes on from the last ones.
        self.optimizer.finalize_variable_values(self.network.trainable_variables)
        if len(self.val):
            answers = predict(self.network, self.val, self.batch)
            score = entry["val_loss"] = cross_entropy(answers, self.val.labels)
            entry["val_accuracy"] = float((answers.argmax(1) == self.val.labels).mean())
            logs.update(val_loss=score, val_accuracy=entry["val_accuracy"])
        entry["seconds"] = time.perf_counter() - self.started
        self.history.append(entry)
        if not np.isfinite(entry["loss"]):
            raise UserError(
                f"the loss became {entry['loss']} in epoch {epoch + 1}; lower --learning-rate"
            )
        if score < self.best_score:
            self.best_epoch, self.best_score = epoch, score
            self.best_weights = self.network.get_weights()
        self.network.set_weights(now)
        patience = self.spec.patience
        self.finished = bool(patience) and epoch - self.best_epoch >= patience
        self._write_state()
        self.model.stop_training = self.finished

    def restore_best(self) -> None:
        self.network.set_weights(self.best_weights)

    def _variables(self) -> list[Any]:
        return [*self.network.weights, *self.optimizer.variables]

    def _write_state(self) -> None:
        arrays: dict[str, Any] = {
            f"now_{i}": np.asarray(v) for i, v in enumerate(self._variables())
        }
        arrays |= {f"best_{i}": value for i, value in enumerate(self.best_weights)}
        facts = {
            "history": self.history,
            "best_epoch": self.best_epoch,
            "best_score": self.best_score,
            "finished": self.finished,
        }
        os.makedirs(os.path.dirname(self.state_file), exist_ok=True)
        with atomic_path(self.state_file) as partial, open(partial, "wb") as file:
            np.savez(file, facts=json.dumps(facts), **arrays)

    def _read_state(self) -> None:
        with np.load(self.state_file, allow_pickle=False) as arrays:
            facts = json.loads(str(arrays["facts"]))
            for i, variable in enumerate(self._variables()):
                variable.assign(arrays[f"now_{i}"])
            self.best_weights = [arrays[f"best_{i}"] for i in range(len(self.best_weights))]
        self.history = facts["history"]
        self.best_epoch, self.best_score = facts["best_epoch"], facts["best_score"]
        self.finished = facts["finished"]


def _seed_generators(layer: keras.layers.Layer) -> list[Any]:
    found = getattr(layer, "seed_generator", None)
    return [found] if found is not None else []
