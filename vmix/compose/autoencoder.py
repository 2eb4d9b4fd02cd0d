"""The VAE module: codes of images upward, and the classes' means downward as the codes' prior.

z_n ~ Normal(m_n, 1)            m_n: what the module below says of row n, 0 before it has said anything
x_n ~ decoder(z_n)
q(z_n | x_n) = Normal(encoder(s_n))        s_n: x_n, or while learning a distorted copy of it

bound = E_q[log p(x_n | z_n)] - alpha KL(q(z_n | x_n) || Normal(m_n, 1))
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array

from vmix.checks import check_positive_int
from vmix.compose.module import CODES, VALUES, Belief, Inputs, Module
from vmix.compose.stepping import Stepper
from vmix.distortion import distorted
from vmix.engine import Data, Start
from vmix.free_energy import evaluate
from vmix.inference import SVI
from vmix.log_joint import guide_factors, model_sites
from vmix.networks import PIXELS, check_pixels, decode, encode
from vmix.plan import bare_plan
from vmix.same_program import check_same_program

COPIES = 4


@dataclass(frozen=True, kw_only=True)
class CodedImages:
    """The program of the VAE module: images x (N, D), prior means m (N, latent_dim), and what the encoder sees, s."""

    latent_dim: int
    hidden: tuple[int, ...]
    pixels: str

    def check_data(self, x: Array, m: Array, s: Array) -> None:
        """Check the data against the pixel likelihood."""
        check_pixels(x, self.pixels)

    def model(self, x: Array, m: Array, s: Array) -> None:
        """The generative story."""
        with numpyro.plate("data", x.shape[0]):
            z = numpyro.sample("z", dist.Normal(m, 1.0).to_event(1))
            p_x = decode(z, like=x, hidden=self.hidden, pixels=self.pixels)
            numpyro.sample("x", p_x, obs=x)

    def guide(self, x: Array, m: Array, s: Array) -> None:
        """The encoder."""
        with numpyro.plate("data", x.shape[0]):
            loc, scale = encode(s, hidden=self.hidden, latent_dim=self.latent_dim, pixels=self.pixels)
            numpyro.sample("z", dist.Normal(loc, scale).to_event(1))


class VAE(Module):
    """Variational autoencoder as a module.

    Args:
        latent_dim: dimension of the codes.
        epochs: passes over the data at each update.
        batch_size: rows a step.
        alpha: weight of the divergence of the codes from their prior.
        hidden: widths of the encoder's hidden layers; the decoder takes them in reverse.
        pixels: "bernoulli" or "gaussian".
        distort: strength of the distortions (moved, turned, scaled, sheared) of what the encoder sees while learning;
            the decoder explains the image as it is, so codes learn to leave them out. Square images only; 0: none.
        learning_rate: of Adam, decayed by a cosine over each update.
        name: a name for files and messages.
    """

    kind = "vae"
    accepts = (VALUES,)
    sends = CODES

    def __init__(
        self,
        latent_dim: int,
        *,
        epochs: int = 200,
        batch_size: int = 500,
        alpha: float = 1.0,
        hidden: tuple[int, ...] = (256,),
        pixels: str = "bernoulli",
        distort: float = 0.0,
        learning_rate: float = 1e-3,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        check_positive_int(latent_dim, "latent_dim")
        check_positive_int(epochs, "epochs")
        if pixels not in PIXELS:
            raise ValueError(f'pixels must be "bernoulli" or "gaussian", found {pixels!r}')
        if not alpha >= 0:
            raise ValueError(f"alpha must be at least 0, found {alpha!r}")
        self.program = CodedImages(latent_dim=latent_dim, hidden=tuple(hidden), pixels=pixels)
        self.epochs, self.batch_size, self.alpha = epochs, batch_size, alpha
        self.distort, self.learning_rate = float(distort), learning_rate
        self._stepper: Stepper | None = None
        self._width = 0
        self._copies: np.ndarray | None = None

    def settings(self) -> dict[str, Any]:
        """The options to make this module again."""
        own = {n: getattr(self, n) for n in ("epochs", "batch_size", "alpha", "distort", "learning_rate", "name")}
        return own | {n: getattr(self.program, n) for n in ("latent_dim", "hidden", "pixels")}

    def check_params(self) -> None:
        """Refuse networks of another structure than those that are made here.

        Raises:
            ProgramError: naming what differs.
        """
        check_same_program(self._plan, {}, self.params or {}, where=f"module {self.name} of the saved network")

    def learn(self, inputs: Inputs, seed: int) -> None:
        """Climb the bound by SVI, from where the networks are."""
        x = np.asarray(inputs[self.upstream[0]], np.float32)
        means, seen = self._prior_means(inputs, len(x)), x
        size, num_rows = min(self.batch_size, len(x)), len(x)
        if self.distort:
            if self._copies is None or len(self._copies) != COPIES * len(x):
                key = jax.random.key(seed)
                self._copies = np.asarray(distorted(jnp.tile(x, (COPIES, 1)), strength=self.distort, key=key))
            seen = self._copies
            x, means = np.tile(x, (COPIES, 1)), np.tile(means, (COPIES, 1))
        args = (x, means, seen)
        if self._stepper is None or self._stepper.num_rows != len(x):
            steps = self.epochs * max(num_rows // size, 1)
            engine = SVI(num_steps=steps, batch_size=size, learning_rate=self.learning_rate)
            self._stepper = Stepper(self.program, engine, args, kl_weight=self.alpha, seed=seed)
        data = Data(tuple(map(jnp.asarray, args)), None, None)
        start = Start({}, self.params if self.params is not None else self._stepper.plan.params)
        estimate, _ = self._stepper.run(data, start, seed=seed)
        self.params = dict(estimate.params)
        self._width = x.shape[1]

    def infer(self, inputs: Inputs) -> Belief:
        """Codes of the images; where there are none, the prior means."""
        x = inputs[self.upstream[0]]
        if x is None:
            below = [v for v in (inputs.get(m) for m in self.downstream) if v is not None]
            return Belief(below[0] if below else np.zeros((1, self.program.latent_dim), np.float32), None, 0.0)
        images = jnp.asarray(x, jnp.float32)
        args = (images, jnp.asarray(self._prior_means(inputs, len(x))), images)
        codes, per_datum = self._look(self.params, args, self.alpha)
        return Belief(np.asarray(codes), None, float(per_datum.mean()))

    def send(self, belief: Belief, inputs: Inputs, other: Module) -> np.ndarray:
        """The codes; to an observation, the images that they stand for."""
        return self.decoded(belief.value) if other in self.upstream else belief.value

    def decoded(self, codes: np.ndarray) -> np.ndarray:
        """The mean images of codes, shape (N, D)."""
        return np.asarray(self._decode(self.params, jnp.asarray(codes, jnp.float32)))

    def _prior_means(self, inputs: Inputs, num_rows: int) -> np.ndarray:
        below = [v for v in (inputs.get(m) for m in self.downstream) if v is not None]
        means = below[0] if below else np.zeros((num_rows, self.program.latent_dim))
        return np.asarray(means, np.float32)

    @cached_property
    def _plan(self) -> Any:
        if self._stepper is not None:
            return self._stepper.plan
        width = self._width
        template = (jnp.zeros((2, width)), jnp.zeros((2, self.program.latent_dim)), jnp.zeros((2, width)))
        return bare_plan(self.program, template, frames={}, updates={}, missing=False)

    @cached_property
    def _look(self) -> Any:
        plan = self._plan

        def look(params: dict, args: tuple, alpha: float) -> tuple[Array, Array]:
            key = jax.random.key(0)  # fixed, so that a row's bound is the same number every time
            _, factors = guide_factors(plan, params, args, key=key)
            found = evaluate(plan, {}, params, args, key=key, kl_weight=alpha, sampled=True)
            return factors["z"].mean, found.per_datum

        return jax.jit(look)

    @cached_property
    def _decode(self) -> Any:
        plan = self._plan

        def mean(params: dict, codes: Array) -> Array:
            x = jnp.zeros((codes.shape[0], self._width))
            args = (x, jnp.zeros_like(codes), x)
            return model_sites(plan, {}, {"z": codes}, params, args)["x"]["fn"].mean

        return jax.jit(mean)
