"""Structured discrete distributions as NumPyro distributions: what every engine sums out or draws as a whole."""

from vmix.distributions.augmented import Augmented
from vmix.distributions.hidden_semi_markov import HiddenSemiMarkov
from vmix.distributions.markov_chain import MarkovChain
from vmix.distributions.scaled_counts import ScaledCounts
from vmix.distributions.structured import Posterior, StructuredDiscrete
from vmix.distributions.topic_counts import TopicCounts

__all__ = [
    "Augmented",
    "HiddenSemiMarkov",
    "MarkovChain",
    "Posterior",
    "ScaledCounts",
    "StructuredDiscrete",
    "TopicCounts",
]
