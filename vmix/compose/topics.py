"""The MLDA module: one class behind several modalities, counts and the classes of other modules.

    pi    ~ Dirichlet(2, ..., 2)                       unless a module below has k
    phi_mk ~ Dirichlet(1 + b, ..., 1 + b)              words, or classes upstream, of class k in modality m
    k_n   ~ Categorical(pi)
    x_mn  ~ Multinomial(weight_m, phi_mk)              counts, scaled to the modality's weight
    c_mn  ~ Categorical(phi_mk)                        the hidden class of a module upstream

A row has one class for all its tokens: multimodal LDA in the limit of a small document concentration. So the class is
a discrete variable that modules below can share, and every message is exact:

    to a module upstream    log p(c_mn | all other modalities) = log sum_k p(k | others) phi_mk
    downstream              log p(what upstream sent | k)

Source: Nakamura, Nagai and Iwahashi (2009) for the modalities; Nakamura, Nagai and Taniguchi (2018) for the messages.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vmix.checks import check_counts, check_positive_int
from vmix.clustering import k_means
from vmix.compose.mixture import ENGINE, GMM, Climb, betas, together
from vmix.compose.module import (
    CLASSES,
    VALUES,
    Belief,
    GraphError,
    Inputs,
    Module,
    Observation,
    from_above,
    from_below,
    potentials_for,
)
from vmix.engine import Data
from vmix.inference import EM
from vmix.numerics import safe_log
from vmix.overdispersion import EFFECTIVE, effective_tokens
from vmix.plan import Plan

SMOOTHING = 0.05
# hundreds of tokens say a hundred times as much as one code
FIRST_BETA = 0.02


class Topics(NamedTuple):
    """Parameters, runs leading: `weights` (runs, K) and one table (runs, K, V_m) for each modality, by place."""

    weights: Array
    tables: dict[int, Array]


class Said(NamedTuple):
    """What each modality says of the class, and the rest of the row of each hidden class.

    Attributes:
        shares: p(k | everything), shape (runs, N, K).
        total: log evidence, nats, shape (runs, N).
        cavities: log p(c_mn | all but its own message), by place, shape (runs, N, K_m).
        evidence: log p(what upstream sent | k), weights and messages from below aside, shape (runs, N, K).
    """

    shares: Array
    total: Array
    cavities: dict[int, Array]
    evidence: Array


class Seen(NamedTuple):
    """What a row shows: counts (N, V_m) and log potentials (runs or 1, N, K_m) by place, and a message from below."""

    counts: dict[int, Array]
    classes: dict[int, Array]
    below: Array


def said(topics: Topics, seen: Seen, beta: Array, powers: dict[int, float]) -> Said:
    """The exact posterior of the class, with counts tempered by beta (runs,)."""
    parts, weight = {}, beta[:, None, None]
    for m, x in seen.counts.items():
        parts[m] = weight * jnp.einsum("nv,rkv->rnk", x, safe_log(topics.tables[m]))
    for m, potentials in seen.classes.items():
        top = potentials.max(-1, keepdims=True)
        passed = jnp.einsum("rnc,rkc->rnk", jnp.exp(potentials - top), topics.tables[m])
        parts[m] = powers[m] * (safe_log(passed) + top)
    evidence = sum(parts.values())
    log_weights = evidence + safe_log(topics.weights)[:, None] + seen.below
    cavities = {}
    for m in seen.classes:
        others = jax.nn.softmax(log_weights - parts[m], -1)
        cavities[m] = safe_log(jnp.einsum("rnk,rkc->rnc", others, topics.tables[m]))
    total = jax.nn.logsumexp(log_weights, -1)
    return Said(jax.nn.softmax(log_weights, -1), total, cavities, jnp.broadcast_to(evidence, log_weights.shape))


def topic_sweep(
    topics: Topics, seen: Seen, beta: Array, powers: dict[int, float], uniform: bool, first: Array | None = None
) -> tuple[Topics, Said]:
    """One sweep of EM; `first` (runs, N, K) stands in for the posterior of the class at the start."""
    found = said(topics, seen, beta, powers)
    shares = found.shares if first is None else first
    tables = {m: _smoothed(jnp.einsum("rnk,nv->rkv", shares, x)) for m, x in seen.counts.items()}
    for m, potentials in seen.classes.items():
        own = jnp.exp(potentials - potentials.max(-1, keepdims=True))
        passed = jnp.einsum("rnc,rkc->rnk", own, topics.tables[m])
        joint = jnp.einsum("rnk,rnc->rkc", shares / jnp.where(passed == 0, 1.0, passed), own) * topics.tables[m]
        tables[m] = _smoothed(joint)
    counted = shares.sum(1) + 1.0
    weights = jnp.full_like(counted, 1.0 / counted.shape[-1]) if uniform else counted / counted.sum(-1, keepdims=True)
    return Topics(weights, tables), found


def _smoothed(counts: Array) -> Array:
    counts = counts + SMOOTHING
    return counts / counts.sum(-1, keepdims=True)


def blank(runs: int, num_classes: int, widths: dict[int, int]) -> Topics:
    """Topics that say nothing."""
    tables = {m: jnp.full((runs, num_classes, v), 1.0 / v) for m, v in widths.items()}
    return Topics(jnp.full((runs, num_classes), 1.0 / num_classes), tables)


def counts_betas(sweeps: int) -> Array:
    """How much counts weigh at each sweep of an annealed run: up to 1 at three fifths."""
    return FIRST_BETA + (1.0 - FIRST_BETA) * jnp.clip(jnp.arange(sweeps) / max(0.6 * sweeps, 1), 0.0, 1.0)


def with_topics(
    plan: Plan, engine: EM, starts: Array, data: Data, betas: Array, seen: Seen, place: int, uniform: bool
) -> tuple[Climb, Topics]:
    """A mixture and the topics below it together, both from the same soft classes; see `together`."""
    runs, _, k = starts.shape
    powers = {place: 1.0}
    eye = jnp.broadcast_to(_smoothed(jnp.eye(k) * starts.shape[1] / k), (runs, k, k))
    widths = {m: x.shape[1] for m, x in seen.counts.items()} | {place: k}
    tempered = counts_betas(betas.shape[0])
    seen = seen._replace(classes={place: jnp.zeros((runs, *starts.shape[1:]))})
    topics, _ = topic_sweep(blank(runs, k, widths), seen, jnp.zeros(runs), powers, uniform, first=starts)
    topics = topics._replace(tables=topics.tables | {place: eye})

    def below(i: Array, topics: Topics, evidence: Array) -> tuple[Topics, Array, Array]:
        held = seen._replace(classes={place: evidence})
        beta = jnp.where(betas[0] < 1, tempered[i], 1.0)
        topics, found = topic_sweep(topics, held, beta, powers, uniform)
        return topics, found.cavities[place], found.total.mean(1)

    return together(plan, engine, starts, data, betas, topics, below)


def climb_topics(starts: Array, seen: Seen, tempered: Array, topics: Topics, powers: dict, uniform: bool) -> tuple:
    """EM from soft classes, or from `topics` where `starts` is None; returns topics and mean evidence (runs,)."""
    runs = topics.weights.shape[0]
    if starts is not None:
        topics, _ = topic_sweep(topics, seen, jnp.zeros(runs), powers, uniform, first=starts)

    def sweep(i: Array, carry: tuple) -> tuple:
        topics, found = topic_sweep(carry[0], seen, jnp.full(runs, tempered[i]), powers, uniform)
        return topics, found.total.mean(1)

    return jax.lax.fori_loop(0, tempered.shape[0], sweep, (topics, jnp.zeros(runs)))


class MLDA(Module):
    """Multimodal LDA as a module, every row with one class.

    Args:
        num_components: K.
        weights: one for each module upstream, in the order they are connected. Counts are scaled to that total; what a
            module of classes says counts weight / (mean of the weights) times. "effective" scales counts to the
            independent tokens that they are worth (`vmix.overdispersion`), and takes classes at their word.
        restarts: random starts at the first update; below a GMM that nothing else is below of, the two are fitted
            together from each start (half are clusters of the codes, half of the counts), a message up and one down at
            each annealed sweep. The likeliest is kept.
        sweeps: of EM at an update.
        name: a name for files and messages.
        category: labels of the rows, for reporting only.
    """

    kind = "mlda"
    accepts = (VALUES, CLASSES)
    sends = CLASSES
    most_upstream = None

    def __init__(
        self,
        num_components: int,
        weights: Any = None,
        *,
        restarts: int = 16,
        sweeps: int = 80,
        name: str | None = None,
        category: Any = None,
    ) -> None:
        super().__init__(name=name, category=category)
        for value, label in ((num_components, "num_components"), (restarts, "restarts"), (sweeps, "sweeps")):
            check_positive_int(value, label)
        self.num_components, self.restarts, self.sweeps = num_components, restarts, sweeps
        told = weights is None or (isinstance(weights, str) and weights == EFFECTIVE)
        self.weights = weights if told else _checked_weights(weights)
        self._worth: dict[int, float] = {}

    @property
    def num_values(self) -> int:
        """K."""
        return self.num_components

    def settings(self) -> dict[str, Any]:
        """The options to make this module again."""
        return {n: getattr(self, n) for n in ("num_components", "weights", "restarts", "sweeps", "name")}

    def connect(self, *upstream: Module) -> None:
        """Join this module to its modalities.

        Raises:
            GraphError: as `Module.connect`, and for another number of modalities than weights.
            ValueError: for negative or fractional counts.
        """
        if isinstance(self.weights, list) and len(self.weights) != len(upstream):
            raise GraphError(
                f"{self.name} has {len(self.weights)} weights and is connected to {len(upstream)} modules; one each"
            )
        for module in upstream:
            if isinstance(module, Observation):
                check_counts(module.x, module.name)
        super().connect(*upstream)

    def learn(self, inputs: Inputs, seed: int) -> None:
        """EM; the first time from many starts, together with a mixture upstream."""
        seen, topics = self._seen(inputs), self._topics()
        mixtures = [m for m in self.upstream if isinstance(m, GMM) and m.downstream == [self]]
        uniform = self._shares_class()
        if topics is None and len(mixtures) == 1 and len(seen.classes) == 1:
            self._learn_together(mixtures[0], seen, seed)
            self.inputs = self.receive()
            return
        rows = next(iter([*seen.counts.values(), *(c[0] for c in seen.classes.values())])).shape[0]
        starts, tempered = None, jnp.ones(self.sweeps)
        if topics is None:
            key = jax.random.key(seed)
            starts = 0.5 * jax.random.dirichlet(key, jnp.full(self.num_components, 0.3), (self.restarts, rows))
            starts, tempered = starts + 0.5 / self.num_components, counts_betas(self.sweeps)
            widths = {m: x.shape[-1] for m, x in [*seen.counts.items(), *seen.classes.items()]}
            topics = _perturbed(blank(self.restarts, self.num_components, widths), key)
        topics, objective = _CLIMB(starts, seen, tempered, topics, self._powers(), uniform)
        self._keep(topics, int(np.argmax(objective)))

    def _learn_together(self, mixture: GMM, seen: Seen, seed: int) -> None:
        data = mixture.take(from_above(mixture, mixture.inputs))
        by_words = self.restarts // 2 if seen.counts else 0
        starts, first = mixture.starts(data, self.restarts - by_words, seed)
        if by_words:
            starts = jnp.concatenate([starts, _WORDS(seen.counts, jax.random.key(seed), by_words, starts.shape[-1])])
            first = jnp.concatenate([first, jnp.full(by_words, first[-1])])
        plan, place = mixture.plan_of(data.args[0].shape[1]), self.upstream.index(mixture)
        if mixture.num_components != self.num_components:
            raise GraphError(f"{mixture.name} has {mixture.num_components} classes, {self.name} {self.num_components}")
        schedule = betas(self.sweeps, first)
        climb, topics = _TOGETHER(plan, ENGINE, starts, data, schedule, seen, place, self._shares_class())
        mixture.keep(climb)
        self._keep(topics, int(np.argmax(np.nan_to_num(np.asarray(climb.objective), nan=-np.inf))))
        mixture.belief = mixture.infer(mixture.inputs)

    def _shares_class(self) -> bool:
        return any(CLASSES in m.accepts for m in self.downstream)

    def _powers(self) -> dict[int, float]:
        weights = self.weights if isinstance(self.weights, list) else [1.0] * len(self.upstream)
        return {m: w / float(np.mean(weights)) for m, w in enumerate(weights)}

    def _seen(self, inputs: Inputs) -> Seen:
        """Counts scaled to their weights, messages, and the sum of what came from below."""
        counts, classes = {}, {}
        for m, module in enumerate(self.upstream):
            value = inputs[module]
            if value is None:
                continue
            if module.sends == CLASSES:
                classes[m] = jnp.asarray(value - value.max(-1, keepdims=True), jnp.float32)[None]
            else:
                x = np.asarray(value, np.float32)
                total = self._total(m, x)
                scale = 1.0 if total is None else total / np.maximum(x.sum(-1, keepdims=True), 1.0)
                counts[m] = jnp.asarray(x * scale)
        below = from_below(self, inputs)
        return Seen(counts, classes, jnp.zeros(()) if below is None else jnp.asarray(below, jnp.float32))

    def _total(self, m: int, x: np.ndarray) -> float | None:
        """The total that the counts of a modality are scaled to; None leaves them."""
        if self.weights is None or isinstance(self.weights, list):
            return None if self.weights is None else self.weights[m]
        if self.params is not None:
            self._worth[m] = float(self.params[f"worth{m}"])
        elif m not in self._worth:
            self._worth[m] = effective_tokens(x, num_classes=self.num_components)
        return self._worth[m]

    def _topics(self) -> Topics | None:
        if self.params is None:
            return None
        tables = {m: jnp.asarray(self.params[f"phi{m}"])[None] for m in range(len(self.upstream))}
        return Topics(jnp.asarray(self.params["weights"])[None], tables)

    def _keep(self, topics: Topics, best: int) -> None:
        worth = {f"worth{m}": np.asarray(total) for m, total in self._worth.items()}
        self.params = worth | {f"phi{m}": np.asarray(t[best]) for m, t in topics.tables.items()}
        self.params["weights"] = np.asarray(topics.weights[best])

    def infer(self, inputs: Inputs) -> Belief:
        """Classes of the rows given the modalities that are there, and the messages from below."""
        seen = self._seen(inputs)
        if not seen.counts and not seen.classes:
            rows = seen.below.shape[0] if seen.below.ndim else 1
            seen.counts[-1] = jnp.zeros((rows, 1))
        topics = self.settled(self._topics())
        tables = topics.tables | {-1: jnp.ones((1, self.num_components, 1))}
        found = jax.tree.map(np.asarray, _SAID(topics._replace(tables=tables), seen, jnp.ones(1), self._powers()))
        details = {f"cavity{m}": a[0] for m, a in found.cavities.items()}
        evidence = found.evidence[0] + np.log(self.settled(self.params)["weights"])
        return Belief(found.shares[0], evidence, float(found.total.mean()), details)

    def send(self, belief: Belief, inputs: Inputs, other: Module) -> np.ndarray:
        """To classes upstream their cavity, to counts upstream their expected shares; below, the class's evidence."""
        if other not in self.upstream:
            return potentials_for(self, belief, inputs, other)
        m = self.upstream.index(other)
        if f"cavity{m}" in belief.details and self.messages == "cavity":
            return belief.details[f"cavity{m}"]
        shares = belief.value @ self.settled(self.params)[f"phi{m}"]
        return np.log(shares) if other.sends == CLASSES else shares


def word_starts(counts: dict[int, Array], key: Array, runs: int, num_classes: int) -> Array:
    """Soft classes from k-means on the square roots of the words' shares, shape (runs, N, K)."""
    shares = [jnp.sqrt(x / jnp.maximum(x.sum(-1, keepdims=True), 1e-30)) for x in counts.values()]
    features = jnp.concatenate(shares, -1)
    found = jax.lax.map(lambda k: k_means(features, num_classes, key=k), jax.random.split(key, runs))
    return 0.98 * jax.nn.one_hot(found, num_classes) + 0.02 / num_classes


def _checked_weights(weights: Any) -> list[float]:
    if isinstance(weights, str) or not all(w > 0 for w in weights):
        raise ValueError(f'weights must be numbers above 0, one a modality, or "{EFFECTIVE}", found {weights!r}')
    return [float(w) for w in weights]


def _perturbed(topics: Topics, key: Array) -> Topics:
    tables = {
        m: _smoothed(t * (1.0 + 0.1 * jax.random.uniform(jax.random.fold_in(key, m), t.shape)) * t.shape[-1])
        for m, t in topics.tables.items()
    }
    return topics._replace(tables=tables)


_SAID = jax.jit(said)
_WORDS = jax.jit(word_starts, static_argnums=(2, 3))
_CLIMB = jax.jit(climb_topics, static_argnums=5)
_TOGETHER = jax.jit(with_topics, static_argnums=(0, 1, 6, 7))
