"""MarkovChain as a NumPyro distribution in a program, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

from vmix.distributions.markov_chain import MarkovChain

NUM_STEPS, BATCH = 5, 4


def test_a_numpyro_program_with_a_plate_holds_a_chain_and_takes_it_through_jit():
    def program(path: jax.Array | None = None) -> None:
        transition = numpyro.sample("transition", dist.Dirichlet(jnp.ones((3, 3))).to_event(1))
        with numpyro.plate("sequences", BATCH):
            numpyro.sample("c", MarkovChain(jnp.ones(3) / 3, transition, NUM_STEPS), obs=path)

    transition = jnp.asarray([[0.2, 0.3, 0.5], [0.6, 0.1, 0.3], [0.1, 0.4, 0.5]])
    trace = handlers.trace(handlers.seed(handlers.substitute(program, {"transition": transition}), 0)).get_trace()
    path = trace["c"]["value"]
    assert path.shape == (BATCH, NUM_STEPS) and path.dtype == jnp.int32
    assert trace["c"]["fn"].support(path).all()
    density = jax.jit(lambda path: numpyro.infer.util.log_density(program, (path,), {}, {"transition": transition})[0])
    chain = MarkovChain(jnp.ones(3) / 3, transition, NUM_STEPS)
    prior = 3 * np.log(2.0)
    np.testing.assert_allclose(density(path), prior + np.sum(chain.log_prob(path)), rtol=1e-5)
    through = jax.jit(lambda chain: chain)(chain)
    assert (through.num_steps, through.time_varying, through.method) == (NUM_STEPS, False, "auto")
    expanded = MarkovChain(jnp.ones((2, 1, 3)) / 3, transition, NUM_STEPS).expand((2, BATCH))
    assert jax.eval_shape(lambda key: expanded.sample(key, (7,)), jax.random.key(0)).shape == (7, 2, BATCH, NUM_STEPS)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.ones(3) / 3, np.eye(2), 4), {}, r"transition_probs has shape \(2, 2\).*\(\*batch, 3, 3\)"),
        ((np.ones(3) / 3, np.eye(3), 4), {"time_varying": True}, r"it needs \(\*batch, 3, 3, 3\)"),
        ((np.ones((2, 3)) / 3, np.ones((5, 3, 3)) / 3, 4), {}, "does not broadcast with transition_probs' batch"),
        ((np.ones(3) / 3, np.eye(3), 0), {}, "at least one step"),
        ((np.ones(3) / 3, np.eye(3), 4), {"method": "fast"}, "choose one of 'auto', 'sequential', 'associative'"),
        ((np.ones(3) / 3, np.eye(3), 4), {"mask": np.ones(3, bool)}, r"mask has shape \(3,\)"),
        ((np.ones(3) / 3, np.eye(3), 4), {"mask": np.ones(4)}, "and bool, True where a step exists"),
        ((np.ones(3) / 3, np.eye(3), 2), {"mask": np.array([False, True])}, "mask has a gap"),
        ((np.ones(3), np.eye(3), 2), {"validate_args": True}, "initial_probs has a row that is no distribution"),
        ((np.ones(3) / 3, 2 * np.eye(3), 2), {"validate_args": True}, "divide by probs.sum"),
    ],
)
def test_bad_arguments_are_refused_with_the_way_out(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        MarkovChain(*arguments, **options)


def test_bad_evidence_and_a_forecast_beyond_known_moves_are_refused():
    chain = MarkovChain(np.ones(3) / 3, np.full((4, 3, 3), 1 / 3), 5, time_varying=True)
    with pytest.raises(ValueError, match=r"unary has shape \(4, 3\); this chain of 5 steps and 3 states"):
        chain.posterior(jnp.zeros((4, 3)))
    with pytest.raises(ValueError, match="build a longer chain"):
        chain.forecast(jnp.zeros((5, 3)), 2)
