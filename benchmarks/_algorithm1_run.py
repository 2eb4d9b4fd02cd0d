"""The loop of Algorithm 1: a fit of the mixture, an epoch of the networks, and the curves."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture

from benchmarks._algorithm1 import Alternation, Components, Networks, Weights, build, loss, taken_from

CHUNK_ROWS = 4096
CURVES = ("loss", "loss_refitted", "loss_train")


class Outcome(NamedTuple):
    """What a run leaves: curves by epoch, shape (epochs,) each, and all that is needed to show it."""

    curves: dict[str, np.ndarray]
    codes: np.ndarray
    predicted: np.ndarray
    reconstruct: Callable[[np.ndarray], np.ndarray]
    seconds_networks: float
    seconds_mixture: float
    unsettled: int


def run(
    train: np.ndarray,
    test: np.ndarray,
    settings: Alternation,
    *,
    seed: int,
    start: Mapping[str, Any] | None = None,
    watch: Callable[[np.ndarray], dict[str, float]],
) -> Outcome:
    """Alternate.

    Args:
        train: images, shape (N, D), in [0, 1].
        test: images, shape (M, D).
        settings: sizes.
        seed: of weights, order, draws and the mixture.
        start: weights of encoder and decoder to go on from, as a fit's `params`; by default they are drawn.
        watch: called with the components of the test images after every epoch; its figures join the curves, and nothing
            else depends on them.

    Returns:
        The outcome.
    """
    networks, weights = build(settings, train.shape[1], seed)
    if start is not None:
        weights = taken_from(start, weights)
    turn = _Turn(networks, settings, jnp.asarray(train), jnp.asarray(test), seed)
    state = (weights, turn.optimiser.init(weights))
    mixture = turn.fit_mixture(weights)
    rows = []
    for epoch in range(settings.epochs):
        before = mixture
        state, loss_train = turn.train(state, before, epoch)
        mixture = turn.fit_mixture(state[0])
        losses = (turn.test_loss(state[0], before), turn.test_loss(state[0], mixture), loss_train)
        rows.append(watch(turn.predict(state[0], mixture)) | dict(zip(CURVES, losses, strict=True)))
    curves = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    reconstruct = partial(_reconstruct, networks, settings, state[0], mixture)
    predicted = turn.predict(state[0], mixture)
    return Outcome(
        curves, turn.encode(state[0], turn.test), predicted, reconstruct, *turn.seconds, unsettled=turn.unsettled
    )


class _Turn:
    """The two halves of an epoch, and the seconds that each has taken."""

    def __init__(self, networks: Networks, settings: Alternation, train: Array, test: Array, seed: int) -> None:
        self.networks, self.settings, self.images, self.test = networks, settings, train, test
        self.key = jax.random.key(seed)
        self.random = np.random.RandomState(seed)
        self.optimiser = optax.adam(settings.learning_rate)
        self.seconds, self.unsettled = [0.0, 0.0], 0
        self._epoch = jax.jit(self._train)
        self._loss = jax.jit(partial(loss, networks=networks, settings=settings, x=test, key=jax.random.key(0)))
        self._codes = jax.jit(lambda w, x: jax.lax.map(partial(self._code, w), x, batch_size=CHUNK_ROWS))

    def _code(self, weights: Weights, x: Array) -> Array:
        return self.networks.encode(weights, x[None])[0]

    def encode(self, weights: Weights, x: Array) -> np.ndarray:
        """Codes of many images, in float64 for scikit-learn."""
        return np.asarray(self._codes(weights, x), np.float64)

    def train(self, state: tuple, mixture: Components, epoch: int) -> tuple[tuple, float]:
        """One epoch of steps with the mixture held, and their mean loss."""
        began = time.perf_counter()
        state, losses = self._epoch(state, mixture, jax.random.fold_in(self.key, epoch))
        losses = np.asarray(losses)
        self.seconds[0] += time.perf_counter() - began
        if not np.isfinite(losses).all():
            raise FloatingPointError(f"the loss is not finite in epoch {epoch}; lower learning_rate")
        return state, float(losses.mean())

    def _train(self, state: tuple, mixture: Components, key: Array) -> tuple[tuple, Array]:
        num_rows = self.images.shape[0]
        size = min(self.settings.batch_size, num_rows)
        key_order, key_steps = jax.random.split(key)
        order = jax.random.permutation(key_order, num_rows)[: num_rows // size * size].reshape(-1, size)

        def step(state: tuple, xs: tuple) -> tuple[tuple, Array]:
            (weights, moments), (rows, key) = state, xs
            x = self.images[rows]
            value, grads = jax.value_and_grad(loss)(weights, self.networks, self.settings, mixture, x, key=key)
            updates, moments = self.optimiser.update(grads, moments, weights)
            return (optax.apply_updates(weights, updates), moments), value

        return jax.lax.scan(step, state, (order, jax.random.split(key_steps, len(order))))

    def fit_mixture(self, weights: Weights) -> Components:
        """A DP-GMM on the codes of all training images, from scratch."""
        began = time.perf_counter()
        codes = self.encode(weights, self.images)
        model = BayesianGaussianMixture(
            n_components=self.settings.num_components,
            covariance_type="diag",
            weight_concentration_prior_type="dirichlet_process",
            weight_concentration_prior=self.settings.concentration,
            max_iter=self.settings.max_iter,
            random_state=self.random,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # counted below
            model.fit(codes)
        self.unsettled += not model.converged_
        self.seconds[1] += time.perf_counter() - began
        with np.errstate(divide="ignore"):  # a component without any weight is impossible
            log_w = np.log(model.weights_)
        return Components(*(jnp.asarray(v, jnp.float32) for v in (log_w, model.means_, model.covariances_)))

    def predict(self, weights: Weights, mixture: Components) -> np.ndarray:
        """Likeliest component of every test image."""
        return np.asarray(mixture.log_joint(jnp.asarray(self.encode(weights, self.test), jnp.float32)).argmax(-1))

    def test_loss(self, weights: Weights, mixture: Components) -> float:
        """Of the test images, at the same draws every time."""
        return float(self._loss(weights, mixture=mixture))


def _reconstruct(
    networks: Networks, settings: Alternation, weights: Weights, mixture: Components, x: np.ndarray
) -> np.ndarray:
    """Pixel probabilities at the mean of z under the likeliest component, shape (n, D): what of x goes through."""
    codes = networks.encode(weights, jnp.asarray(x))
    z = codes if settings.latent == "code" else mixture.loc[mixture.log_joint(codes).argmax(-1)]
    return np.asarray(jax.nn.sigmoid(networks.decode(weights, z)))
