"""Small programs that have, between them, every complete conditional and every kind of local site."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from tests.statistics.joint import Joint
from vmix.distributions import HiddenSemiMarkov, MarkovChain
from vmix.models import LDA, MLDA, BernoulliMixture, DirichletProcessMixture, GaussianMixture, MarkovModel
from vmix.priors import without_self_moves

ROWS = 6
X = np.random.default_rng(0).normal(size=ROWS).astype(np.float32)
PAIRS = np.random.default_rng(1).normal(size=(ROWS, 2)).astype(np.float32)
COUNTS = np.random.default_rng(2).poisson(3.0, size=ROWS)
BITS = (np.random.default_rng(3).random((ROWS, 2)) < 0.5).astype(np.float32)


def one_of_each_scalar(x, counts):
    """Normal, Gamma, inverse Gamma and Exponential priors; a HalfNormal that is conjugate to nothing."""
    w = numpyro.sample("w", dist.Dirichlet(jnp.full(2, 2.0)))
    loc = numpyro.sample("loc", dist.Normal(0.5, 2.0).expand([2]).to_event(1))
    variance = numpyro.sample("variance", dist.InverseGamma(3.0, 2.0))
    rate = numpyro.sample("rate", dist.Exponential(0.5).expand([2]).to_event(1))
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(loc[c], jnp.sqrt(variance)), obs=x)
        numpyro.sample("counts", dist.Poisson(rate[c]), obs=counts)


def hierarchy(x):
    """A hyper-mean, a precision with a rate of its own, and a scale without a conjugate prior."""
    middle = numpyro.sample("middle", dist.Normal(1.0, 2.0))
    rate = numpyro.sample("rate", dist.Gamma(3.0, 2.0))
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    loc = numpyro.sample("loc", dist.Normal(middle, 1.0).expand([2]).to_event(1))
    tau = numpyro.sample("tau", dist.Gamma(3.0, rate).expand([2]).to_event(1))
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(loc[c], 1.0 / jnp.sqrt(tau[c])), obs=x)


def half_normal(x):
    loc = numpyro.sample("loc", dist.Normal(0.0, 2.0))
    scale = numpyro.sample("scale", dist.HalfNormal(1.0).expand([2]).to_event(1))
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Categorical(jnp.array([0.3, 0.7])))
        numpyro.sample("x", dist.Normal(loc, scale[c]), obs=x)


def regressions(y, features):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    slope = numpyro.sample("slope", dist.Normal(0.0, 2.0).expand([2, 2]).to_event(2))
    tau = numpyro.sample("tau", dist.Gamma(3.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("data", y.shape[0]):
        c = numpyro.sample("c", dist.Categorical(w))
        numpyro.sample("y", dist.Normal((slope[c] * features).sum(-1), 1.0 / jnp.sqrt(tau[c])), obs=y)


def coupled(x):
    """Means that enter through sums and differences: one block of all."""
    loc = numpyro.sample("loc", dist.Normal(0.0, 1.5).expand([3]).to_event(1))
    seen = jnp.stack([loc[0] + loc[1], loc[1] - 2.0 * loc[2] + loc[0]])
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Categorical(jnp.array([0.4, 0.6])))
        numpyro.sample("x", dist.Normal(seen[c], 0.7), obs=x)


def vectors(x):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    covariance = jnp.array([[2.0, 0.8], [0.8, 1.0]])
    loc = numpyro.sample("loc", dist.MultivariateNormal(jnp.ones(2), covariance).expand([2]).to_event(1))
    precision = numpyro.sample("precision", dist.Wishart(5.0, rate_matrix=covariance).expand([2]).to_event(1))
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Categorical(w))
        numpyro.sample("x", dist.MultivariateNormal(loc[c], precision_matrix=precision[c]), obs=x)


def factors_of_matrices(x):
    rate = jnp.array([[2.0, 0.8], [0.8, 1.0]])
    root = numpyro.sample("root", dist.WishartCholesky(5.0, rate_matrix=rate))
    loc = numpyro.sample("loc", dist.Normal(0.0, 1.0).expand([2, 2]).to_event(2))
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Categorical(jnp.array([0.4, 0.6])))
        numpyro.sample("x", dist.MultivariateNormal(loc[c], precision_matrix=root @ root.T), obs=x)


def normalised_weights(x):
    w = numpyro.sample("w", dist.Dirichlet(jnp.array([0.7, 1.5, 2.0])))
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Categorical(logits=jnp.log(w)))
        numpyro.sample("x", dist.Normal(jnp.arange(3.0)[c], 1.0), obs=x)


def two_classes(x, counts):
    """Two discrete sites a datum, one a parent of the other: their product is enumerated."""
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    v = numpyro.sample("v", dist.Dirichlet(jnp.ones(3)).expand([2]).to_event(1))
    loc = numpyro.sample("loc", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0).expand([2, 3]).to_event(2))
    with numpyro.plate("data", x.shape[0]):
        a = numpyro.sample("a", dist.Categorical(w))
        b = numpyro.sample("b", dist.Categorical(v[a]))
        numpyro.sample("x", dist.Normal(loc[b], 1.0), obs=x)
        numpyro.sample("counts", dist.Poisson(rate[a, b]), obs=counts)


def chain_with_ends(x, mask):
    """Sequences of unequal lengths."""
    initial = numpyro.sample("initial", dist.Dirichlet(jnp.ones(3)))
    transition = numpyro.sample("transition", dist.Dirichlet(0.5 + jnp.eye(3)))
    probs = numpyro.sample("probs", dist.Dirichlet(jnp.ones(4)).expand([3]))
    with numpyro.plate("sequences", x.shape[0]):
        c = numpyro.sample("c", MarkovChain(initial, transition, x.shape[1], mask=mask.astype(bool)))
        numpyro.sample("x", dist.Categorical(probs[c]).mask(mask.astype(bool)).to_event(1), obs=x)


def durations(x):
    start = numpyro.sample("start", dist.Dirichlet(jnp.ones(3)))
    move = numpyro.sample("move", dist.Dirichlet(jnp.ones((3, 2))))
    lasting = numpyro.sample("lasting", dist.Dirichlet(jnp.ones((3, 4))))
    loc = numpyro.sample("loc", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
    with numpyro.plate("sequences", x.shape[0]):
        c = numpyro.sample("c", HiddenSemiMarkov(start, without_self_moves(move), lasting, x.shape[1]))
        numpyro.sample("x", dist.Normal(loc[c], 1.0).to_event(1), obs=x)


def random_effects(x):
    """A continuous latent of each datum without an encoder: drawn from its own complete conditional."""
    tau = numpyro.sample("tau", dist.Gamma(3.0, 2.0))
    with numpyro.plate("data", x.shape[0]):
        z = numpyro.sample("z", dist.Normal(0.5, 1.0 / jnp.sqrt(tau)))
        c = numpyro.sample("c", dist.Categorical(jnp.array([0.4, 0.6])))
        numpyro.sample("x", dist.Normal(z + jnp.array([-1.0, 2.0])[c], 0.8), obs=x)


def encoded_model(x):
    """A latent behind a curved decoder, with an encoder (below) that is far from its posterior."""
    w = numpyro.sample("w", dist.Dirichlet(jnp.full(2, 2.0)))
    loc = numpyro.sample("loc", dist.Normal(0.0, 2.0).expand([2, 1]).to_event(2))
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Categorical(w))
        z = numpyro.sample("z", dist.Normal(loc[c], 1.0).to_event(1))
        numpyro.sample("x", dist.Normal(jnp.tanh(z) * jnp.array([1.0, 2.0]), 0.6).to_event(1), obs=x)


def encoded_steps(x):
    """A chain whose steps have latents behind a curved decoder; its encoder is far from their posterior."""
    transition = numpyro.sample("transition", dist.Dirichlet(0.5 + jnp.eye(2)))
    loc = numpyro.sample("loc", dist.Normal(0.0, 2.0).expand([2, 1]).to_event(2))
    with numpyro.plate("sequences", x.shape[0]):
        c = numpyro.sample("c", MarkovChain(jnp.array([0.3, 0.7]), transition, x.shape[1]))
        z = numpyro.sample("z", dist.Normal(loc[c], 1.0).to_event(2))
        numpyro.sample("x", dist.Normal(jnp.tanh(z) * jnp.array([1.0, 2.0]), 0.6).to_event(2), obs=x)


def encoded_twice(x):
    """Two latents behind one curved decoder, the second one drawn given the first; no class."""
    tau = numpyro.sample("tau", dist.Gamma(3.0, 2.0))
    with numpyro.plate("data", x.shape[0]):
        w = numpyro.sample("w", dist.Normal(0.0, 1.0))
        z = numpyro.sample("z", dist.Normal(jnp.sin(2.0 * w), 1.0 / jnp.sqrt(tau)))
        numpyro.sample("x", dist.Normal(jnp.stack([jnp.tanh(z), w * z], -1), 0.6).to_event(1), obs=x)


def heavy_tails(x):
    """A continuous latent of each datum without an encoder and without a closed form: NUTS moves all of them."""
    tau = numpyro.sample("tau", dist.Gamma(3.0, 2.0))
    with numpyro.plate("data", x.shape[0]):
        z = numpyro.sample("z", dist.Normal(0.5, 1.0 / jnp.sqrt(tau)))
        numpyro.sample("x", dist.StudentT(4.0, z, 0.7), obs=x)


def with_holes(x):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    loc = numpyro.sample("loc", dist.Normal(0.0, 2.0).expand([2, 2]).to_event(2))
    tau = numpyro.sample("tau", dist.Gamma(3.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(loc[c], 1.0 / jnp.sqrt(tau)).to_event(1), obs=x)


class WithEncoder:
    model = staticmethod(encoded_model)

    @staticmethod
    def guide(x):
        with numpyro.plate("data", x.shape[0]):
            numpyro.sample("z", dist.Normal(0.7 * x[:, :1], 1.2).to_event(1))


class WithEncoderOfSteps:
    model = staticmethod(encoded_steps)

    @staticmethod
    def guide(x):
        with numpyro.plate("sequences", x.shape[0]):
            numpyro.sample("z", dist.Normal(0.7 * x[..., :1], 1.2).to_event(2))


class WithTwoEncoders:
    model = staticmethod(encoded_twice)

    @staticmethod
    def guide(x):
        with numpyro.plate("data", x.shape[0]):
            numpyro.sample("w", dist.Normal(0.3 * x[:, 1], 1.1))
            numpyro.sample("z", dist.Normal(0.7 * x[:, 0], 1.2))


HOLES = np.where(np.arange(2 * ROWS).reshape(ROWS, 2) % 5 == 0, np.nan, PAIRS).astype(np.float32)
MASK = np.arange(5) < np.array([5, 3, 1, 4])[:, None]
PRIOR = {"loc": (0.0, 0.0), "scale": (1.5, 1.5), "spread": (1.0, 1.0)}
NORMAL, GAMMA, DIRICHLET = "Normal", "Gamma", "Dirichlet"

JOINTS: dict[str, Joint] = {
    "scalars": Joint(
        program=one_of_each_scalar,
        data=(X, COUNTS),
        updates={"w": DIRICHLET, "loc": NORMAL, "variance": "InverseGamma", "rate": GAMMA},
    ),
    "hierarchy": Joint(
        program=hierarchy,
        data=(X,),
        updates={"middle": NORMAL, "rate": GAMMA, "w": DIRICHLET, "loc": NORMAL, "tau": GAMMA},
    ),
    "NUTS beside a conditional": Joint(program=half_normal, data=(X,), updates={"loc": NORMAL, "scale": "NUTS"}),
    "regressions": Joint(
        program=regressions,
        data=(X, PAIRS),
        updates={"w": DIRICHLET, "slope": "Normal (blocks of size 2)", "tau": GAMMA},
    ),
    "coupled means": Joint(program=coupled, data=(X,), updates={"loc": "Normal (blocks of size 3)"}),
    "vectors": Joint(
        program=vectors,
        data=(PAIRS,),
        updates={"w": DIRICHLET, "loc": "Normal (blocks of size 2)", "precision": "Wishart"},
    ),
    "factors of matrices": Joint(
        program=factors_of_matrices,
        data=(PAIRS,),
        updates={"root": "WishartCholesky", "loc": "Normal (blocks of size 2)"},
    ),
    "normalised weights": Joint(program=normalised_weights, data=(X,), updates={"w": "Dirichlet (normalised)"}),
    "bits": Joint(program=BernoulliMixture(num_components=2), data=(BITS,), updates={"w": DIRICHLET, "theta": "Beta"}),
    "sticks": Joint(
        program=DirichletProcessMixture(truncation=4, concentration=None, **PRIOR),
        data=(PAIRS,),
        updates={"concentration": GAMMA, "v": "Beta", "loc": NORMAL, "precision": GAMMA},
    ),
    "tied matrix": Joint(
        program=GaussianMixture(num_components=2, covariance="tied", concentration=2.0, **PRIOR),
        data=(PAIRS,),
        updates={"w": DIRICHLET, "loc": "Normal (blocks of size 2)", "precision": "Wishart"},
    ),
    "two classes": Joint(
        program=two_classes,
        data=(X, COUNTS),
        updates={"w": DIRICHLET, "v": DIRICHLET, "loc": NORMAL, "rate": GAMMA},
    ),
    "chain": Joint(
        program=chain_with_ends,
        data=((np.arange(20).reshape(4, 5) % 4), MASK.astype(np.float32)),
        updates={"initial": DIRICHLET, "transition": DIRICHLET, "probs": DIRICHLET},
    ),
    "durations": Joint(
        program=durations,
        data=(np.zeros((3, 7), np.float32),),
        updates={"start": DIRICHLET, "move": DIRICHLET, "lasting": DIRICHLET, "loc": NORMAL},
    ),
    "observed chain": Joint(
        program=MarkovModel(num_values=3),
        data=((np.arange(15).reshape(3, 5) % 3),),
        updates={"initial": DIRICHLET, "transition": DIRICHLET},
    ),
    "topics": Joint(
        program=LDA(num_components=2, topic_concentration=0.8, max_tokens=8),
        data=(np.array([[3, 1, 2], [0, 4, 1], [2, 2, 4]]),),
        updates={"phi": DIRICHLET, "theta": DIRICHLET},
    ),
    "topics of two modalities": Joint(
        program=MLDA(num_components=2, topic_concentration=0.8, max_tokens=(8, 5)),
        data=(np.array([[3, 1, 2], [0, 4, 1], [2, 2, 4]]), np.array([[2, 1], [0, 0], [1, 4]])),
        updates={"phi0": DIRICHLET, "phi1": DIRICHLET, "theta": DIRICHLET},
    ),
    "random effects": Joint(program=random_effects, data=(X,), updates={"tau": GAMMA, "z": NORMAL}),
    "encoder": Joint(program=WithEncoder(), data=(PAIRS,), updates={"w": DIRICHLET, "loc": NORMAL}),
    "encoder of steps": Joint(
        program=WithEncoderOfSteps(),
        data=(PAIRS.reshape(2, 3, 2),),
        updates={"transition": DIRICHLET, "loc": NORMAL},
    ),
    "two encoders": Joint(program=WithTwoEncoders(), data=(PAIRS,), updates={"tau": GAMMA}),
    "NUTS of latents": Joint(program=heavy_tails, data=(X,), updates={"tau": GAMMA, "z": "NUTS"}),
    "holes": Joint(
        program=with_holes, data=(HOLES,), updates={"w": DIRICHLET, "loc": NORMAL, "tau": GAMMA}, missing=True
    ),
}
