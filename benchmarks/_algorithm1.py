"""Algorithm 1 of "Deep Infinite Mixture Latent Variable Models" (Nagpal et al.) as published: networks and a mixture
in turn, each on an objective of its own. It is here to show what that alternation costs.

    for each epoch:
        mean, var, w <- DP-GMM(encoder(x_1), ..., encoder(x_N))
        for each minibatch:
            l_nk = log w_k + log Normal(encoder(x_n); mean_k, var_k)
            y_n  = softmax((l_n + gumbel_n) / temperature)                 "soft"; its argmax, one-hot, "hard"
            z_n  = sum_k y_nk mean_k + sqrt(sum_k y_nk var_k) eps_n,       eps_n ~ Normal(0, I)
            step on -log Bernoulli(x_n; decoder(z_n))

The paper leaves details open. What was chosen, the most direct reading in each case:

- encoder(x) is one point, the mean that a variational encoder gives; no divergence from a prior enters the loss, as
  the algorithm has the reconstruction alone.
- All of x is encoded once, at the start of an epoch, for the mixture; within the epoch the mixture stands still while
  the encoder moves on.
- The mixture is scikit-learn's BayesianGaussianMixture with a Dirichlet-process prior of concentration 1, ten
  components (the paper's number), diagonal covariances (the paper's "var"), one k-means start, no warm start.
- The assignment is a Gumbel-softmax of the mixture's own log joint l at its point estimates, not of a further network,
  which the algorithm does not name.
  "hard" goes forward with the argmax and backward as "soft" (straight-through). Temperature 1 throughout.
- z is the assigned component's, as written above (`latent="component"`). So gradients reach the encoder through l
  alone, and z has nothing else of x in it. In small runs that stayed far below the paper's figures, so another reading
  is here too (`latent="code"`): z_n = encoder(x_n) + sqrt(sum_k y_nk var_k) eps_n, with the component's variance alone.
- Adam at a constant 1e-3, batches of 256, leftover rows of an epoch's order left out. The widths are those of the VAE.
- A test image belongs to the likeliest component of its code under a mixture fitted to the training codes of the same
  encoder: the curves are taken after an epoch's steps and the next fit of the mixture, which the next epoch goes on
  with. `loss` is under the mixture that the epoch's steps were taken with, `loss_refitted` under that next one: the
  difference is what the decoder loses to the mixture's moving on. Both are nats per test image at fixed draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from vmix.networks import MLP, GaussianEncoder

RELAXATIONS = ("soft", "hard")
LATENTS = ("component", "code")
Weights = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Alternation:
    """What was chosen: the relaxation ("soft" or "hard"), what z is made of ("component" or "code"), and sizes."""

    relaxation: str
    latent_dim: int
    hidden: tuple[int, ...]
    latent: str = "component"
    epochs: int = 100
    num_components: int = 10
    concentration: float = 1.0
    max_iter: int = 100
    temperature: float = 1.0
    batch_size: int = 256
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if self.relaxation not in RELAXATIONS:
            raise ValueError(f'relaxation must be "soft" or "hard", found {self.relaxation!r}')
        if self.latent not in LATENTS:
            raise ValueError(f'latent must be "component" or "code", found {self.latent!r}')


class Components(NamedTuple):
    """The mixture as the networks see it: log_w of shape (K,), loc and var of shape (K, latent_dim)."""

    log_w: Array
    loc: Array
    var: Array

    def log_joint(self, codes: Array) -> Array:
        """log w_k + log Normal(code_n; loc_k, var_k) at [n, k]."""
        gaps = jnp.square(codes[:, None] - self.loc) / self.var + jnp.log(2 * jnp.pi * self.var)
        return self.log_w - 0.5 * gaps.sum(-1)


class Networks(NamedTuple):
    """Structure of encoder and decoder, without weights; hashable."""

    encoder: Any
    decoder: Any

    def encode(self, weights: Weights, x: Array) -> Array:
        """Codes, shape (n, latent_dim)."""
        return nnx.merge(self.encoder, weights["encoder"])(x)[0]

    def decode(self, weights: Weights, z: Array) -> Array:
        """Logits of the pixels, shape (n, D)."""
        return nnx.merge(self.decoder, weights["decoder"])(z)


def build(settings: Alternation, data_dim: int, seed: int) -> tuple[Networks, Weights]:
    """The VAE's networks, with weights as they are drawn."""
    rngs = nnx.Rngs(seed)
    encoder = GaussianEncoder((data_dim, *settings.hidden), settings.latent_dim, rngs=rngs)
    decoder = MLP((settings.latent_dim, *reversed(settings.hidden), data_dim), rngs=rngs)
    parts = {"encoder": nnx.split(encoder), "decoder": nnx.split(decoder)}
    return Networks(*(graph for graph, _ in parts.values())), {name: state for name, (_, state) in parts.items()}


def assignments(log_joint: Array, settings: Alternation, *, key: Array) -> Array:
    """Draw y by Gumbel-softmax, shape (n, K): on the simplex, or one-hot with the soft one's gradient."""
    gumbel = jax.random.gumbel(key, log_joint.shape)
    soft = jax.nn.softmax((log_joint + gumbel) / settings.temperature)
    if settings.relaxation == "soft":
        return soft
    hard = jax.nn.one_hot(soft.argmax(-1), soft.shape[-1])
    return hard + soft - jax.lax.stop_gradient(soft)


def loss(
    weights: Weights, networks: Networks, settings: Alternation, mixture: Components, x: Array, *, key: Array
) -> Array:
    """Minus log Bernoulli(x; decoder(z)), nats per datum."""
    key_y, key_z = jax.random.split(key)
    codes = networks.encode(weights, x)
    y = assignments(mixture.log_joint(codes), settings, key=key_y)
    scale = jnp.sqrt(y @ mixture.var)
    loc = y @ mixture.loc if settings.latent == "component" else codes
    z = loc + scale * jax.random.normal(key_z, scale.shape)
    return optax.sigmoid_binary_cross_entropy(networks.decode(weights, z), x).sum(-1).mean()


def taken_from(params: Mapping[str, Any], weights: Weights) -> Weights:
    """These networks with the weights of a fit; of an encoder with further latents after z, z's columns.

    Raises:
        ValueError: if the fit's encoder or decoder is missing, or of other widths.
    """
    for name, state in weights.items():
        found, wanted = dict(params.get(f"{name}$params", {})), nnx.to_pure_dict(state)
        for head in {"loc", "scale"} & found.keys() & wanted.keys():
            found[head] = jax.tree.map(lambda leaf, like: leaf[..., : like.shape[-1]], found[head], wanted[head])
        if jax.tree.map(np.shape, found) != jax.tree.map(np.shape, wanted):
            raise ValueError(
                f"the weights to start from have no {name} of the widths of this one (networks {sorted(params)}); "
                "fit that model with the same hidden and latent_dim"
            )
        nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, found))
    return weights
