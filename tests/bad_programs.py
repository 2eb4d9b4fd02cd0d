"""Programs that cannot be fitted, each for one reason."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from flax import nnx

from vmix.networks import network

_KEPT = []


def observe(loc, x):
    with numpyro.plate("data", x.shape[0]):
        numpyro.sample("x", dist.Normal(loc, 1.0), obs=x[:, 0])


def one_mean(x):
    observe(numpyro.sample("m", dist.Normal(0.0, 5.0)), x)


def batch_norm(x):
    net = network("net", lambda rngs: nnx.BatchNorm(1, rngs=rngs))
    observe(net(numpyro.sample("m", dist.Normal(0.0, 5.0).expand([1]).to_event(1)))[0], x)


def no_data(x):
    numpyro.sample("m", dist.Normal(0.0, 1.0))


def no_plate(x):
    numpyro.sample("x", dist.Normal(numpyro.sample("m", dist.Normal(0.0, 1.0)), 1.0), obs=x[:, 0])


def small_plate(x):
    with numpyro.plate("data", 10):
        numpyro.sample("x", dist.Normal(numpyro.sample("m", dist.Normal(0.0, 1.0)), 1.0), obs=x[:10, 0])


def two_plates(x):
    with numpyro.plate("rows", x.shape[0]):
        c = numpyro.sample("c", dist.Bernoulli(0.5))
    observe(c, x)


def same_name(x):
    numpyro.sample("m", dist.Normal(0.0, 1.0))
    observe(numpyro.sample("m", dist.Normal(0.0, 1.0)), x)


def endless(x):
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Poisson(3.0))
        numpyro.sample("x", dist.Normal(c, 1.0), obs=x[:, 0])


def discrete_global(x):
    observe(numpyro.sample("c", dist.Bernoulli(0.5)), x)


def several_values(x):
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Categorical(jnp.ones(2) / 2).expand([2]).to_event(1))
        numpyro.sample("x", dist.Normal(c, 1.0).to_event(1), obs=x)


def many_values(x):
    with numpyro.plate("data", x.shape[0]):
        total = sum(numpyro.sample(f"c{i}", dist.Categorical(jnp.ones(20) / 20)) for i in range(4))
        numpyro.sample("x", dist.Normal(total, 1.0), obs=x[:, 0])


def mean_of_classes(x):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Bernoulli(0.5))
        numpyro.sample("x", dist.Normal(m + c.mean(), 1.0), obs=x[:, 0])


def running_sum(x):
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Bernoulli(0.5))
        numpyro.sample("x", dist.Normal(jnp.cumsum(c), 1.0), obs=x[:, 0])


def python_if(x):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    observe(m + 1 if m > 0 else m, x)


def python_mask(x):
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Bernoulli(0.5))
        numpyro.sample("x", dist.Normal(x[c == 1].mean(), 1.0), obs=x[:, 0])


def numpy_float64(x):
    observe(numpyro.sample("m", dist.Normal(0.0, 1.0)), np.asarray(x, np.float64))


def keeps_values(x):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    _KEPT.append(m)
    observe(m + _KEPT[0], x)


def own_random_numbers(x):
    observe(numpyro.sample("m", dist.Normal(np.random.normal(), 1.0)), x)


def asks_a_frame(x):
    observe(numpyro.sample("m", dist.Normal(0.0, 1.0)), x.to_frame())


def negative_scale(x):
    observe(numpyro.sample("m", dist.Normal(0.0, -1.0)), x)


def rows_as_several_values(x):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0).expand([3, 2]).to_event(2))
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Categorical(jnp.ones(3) / 3))
        numpyro.sample("x", dist.Normal(rate[c], 1.0), obs=x)


def negative_concentration(x):
    w = numpyro.sample("w", dist.Dirichlet(jnp.array([1.0, -1.0])))
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(c, 1.0), obs=x[:, 0])


def probs_over_one(x):
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Categorical(jnp.array([0.6, 0.6])))
        numpyro.sample("x", dist.Normal(c, 1.0), obs=x[:, 0])


def wrong_shapes(x):
    with numpyro.plate("data", x.shape[0]):
        numpyro.sample("x", dist.Normal(jnp.zeros(7), 1.0).to_event(1), obs=x)


def subsampled(x):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    with numpyro.plate("data", x.shape[0], subsample_size=10) as rows:
        numpyro.sample("x", dist.Normal(m, 1.0), obs=x[rows, 0])


def categories(x):
    with numpyro.plate("data", x.shape[0]):
        numpyro.sample("x", dist.Categorical(jnp.ones(2) / 2), obs=x[:, 0])


def poisson(x):
    rate = numpyro.sample("rate", dist.Gamma(1.0, 1.0))
    with numpyro.plate("data", x.shape[0]):
        numpyro.sample("x", dist.Poisson(rate), obs=x[:, 0])


def two_arrays(x, y):
    one_mean(x)


class StrangeGuide:
    """Its guide samples a latent that the program does not have."""

    def model(self, x):
        with numpyro.plate("data", x.shape[0]):
            numpyro.sample("x", dist.Normal(numpyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x[:, 0])

    def guide(self, x):
        with numpyro.plate("data", x.shape[0]):
            numpyro.sample("latent", dist.Normal(0.0, 1.0))
