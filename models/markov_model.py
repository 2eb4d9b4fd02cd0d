"""Markov model: observed chains of K values, their moves counted.

    p    ~ Dirichlet(1 + a, ..., 1 + a)        first value
    A_k  ~ Dirichlet(1 + a, ..., 1 + a)        what follows the value k
    x_n,1:T ~ MarkovChain(p, A)

The mode of A is `P(k' | k) = (N_kk' + a) / (sum_k' N_kk' + K a)`, with N the counts of moves; its mean has 1 + a
for a.

Source: Bishop (2006), equations 13.2 (the chain) and 2.41 (the posterior of a row, by counts).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array

from vmix.checks import check_counts, first_rows
from vmix.distributions import MarkovChain
from vmix.options import checked
from vmix.priors import check_sequences, settle
from vmix.showing import Shown


def count_values(x: Array, mask: Array | None, given: int | None) -> int:
    """The number of values of whole numbers x, shape (N, T): as given, or the largest value and one.

    Raises:
        ValueError: if x does not hold whole numbers from 0 to the given number, that not included.
    """
    found = first_rows(x)
    found = found if mask is None else np.where(first_rows(mask).astype(bool), found, 0)
    check_counts(found, "x")
    if not np.issubdtype(found.dtype, np.integer):
        raise ValueError(f"x is {found.dtype}; its values are categories, so give whole numbers: x.astype(int)")
    num_values = int(found.max()) + 1 if given is None else given
    if found.max() >= num_values:
        raise ValueError(
            f"x has the value {found.max()}; with num_values={num_values} it must lie in 0..{num_values - 1}: fit with "
            "num_values as large as any value to come, or drop what has others"
        )
    return num_values


@checked(alpha=0.0)
@dataclass(frozen=True, kw_only=True)
class MarkovModel(Shown):
    """Markov model of N observed sequences of T whole numbers, x of shape (N, T).

    Args:
        num_values: K; None takes the largest value and one.
        alpha: a, the count added to every move before the data are seen.
    """

    num_values: int | None = None
    alpha: float = 1.0

    sequence_dims: ClassVar[int] = 2  # dimensions of x

    def check_data(self, x: Array, mask: Array | None = None) -> None:
        """Check the sequences and their values."""
        check_sequences(x, mask, num_dims=self.sequence_dims)
        count_values(x, mask, self.num_values)

    def with_data(self, x: Array, mask: Array | None = None) -> MarkovModel:
        """Settle the number of values on the data."""
        return settle(self, num_values=count_values(x, mask, self.num_values))

    def model(self, x: Array, mask: Array | None = None) -> None:
        """The generative story; `mask` (N, T) is true where a step exists."""
        mask = None if mask is None else mask.astype(bool)
        a = jnp.full(self.num_values, 1.0 + self.alpha)
        p = numpyro.sample("initial", dist.Dirichlet(a))
        transition = numpyro.sample("transition", dist.Dirichlet(a).expand([self.num_values]))
        with numpyro.plate("sequences", x.shape[0]):
            numpyro.sample("x", MarkovChain(p, transition, x.shape[1], mask=mask), obs=x)
