"""How heavy the tail of importance weights is: the shape k of a generalised Pareto distribution fitted to it.

Weights with k below 0.5 have a finite variance, from 0.7 on an average over them cannot be trusted, and above 1 they
have no finite mean.

Source: Zhang and Stephens (2009) for the fit; Vehtari, Simpson, Gelman, Yao and Gabry (2024) for the size of the tail
and the weakly informative prior on k.
"""

from __future__ import annotations

import numpy as np

LEAST_TAIL = 5


def khat(log_weights: np.ndarray) -> float:
    """The shape k of the tail of importance weights.

    Args:
        log_weights: log p - log q at draws from q, nats up to a constant, shape (S,).

    Returns:
        k; infinite where a weight is not a number, minus infinity where all weights are alike.

    Raises:
        ValueError: for fewer than 25 weights, whose tail is too short to fit.

    Example:
        >>> u = (np.arange(4000) + 0.5) / 4000
        >>> bool(abs(khat(-0.6 * np.log(u)) - 0.6) < 0.1)  # weights with the tail of a Pareto distribution of shape 0.6
        True
    """
    log_weights = np.sort(np.asarray(log_weights, np.float64))
    size = len(log_weights)
    tail = int(np.ceil(min(0.2 * size, 3.0 * np.sqrt(size))))
    if tail < LEAST_TAIL:
        raise ValueError(f"{size} weights are given; expected at least 25, so that there is a tail to fit")
    if np.isnan(log_weights).any() or np.isposinf(log_weights).any():
        return float("inf")
    weights = np.exp(log_weights - log_weights[-1])
    excess = weights[-tail:] - weights[-tail - 1]
    if excess[-1] <= 0.0:
        return float("-inf")
    shape = fit_shape(np.maximum(excess, np.finfo(np.float64).tiny))
    return (tail * shape + 5.0) / (tail + 10.0)


def fit_shape(excess: np.ndarray) -> float:
    """Zhang and Stephens' estimate of k from exceedances above 0, sorted, shape (n,).

    theta_i = 1 / x_n + (1 - sqrt(m / (i - 1/2))) / (3 x_q),    k_i = mean log(1 - theta_i x),

    weighted by the profile likelihoods n (log(-theta_i / k_i) - k_i - 1); x_q is the first quartile. (Their k is minus
    ours, which is positive for heavy tails.)
    """
    n = len(excess)
    num = 30 + int(np.sqrt(n))
    quartile = excess[int(n / 4 + 0.5) - 1]
    theta = 1.0 / excess[-1] + (1.0 - np.sqrt(num / (np.arange(1, num + 1) - 0.5))) / (3.0 * quartile)
    shapes = np.log1p(-theta[:, None] * excess).mean(1)
    profile = n * (np.log(-theta / shapes) - shapes - 1.0)
    weights = np.exp(profile - profile.max())
    theta = float((weights * theta).sum() / weights.sum())
    return float(np.log1p(-theta * excess).mean())
