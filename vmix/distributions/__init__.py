"""Distributions beyond NumPyro's: structured discrete sites, observed ones that hide some, relaxed one-hot vectors."""

from vmix.distributions.augmented import Augmented
from vmix.distributions.gumbel_softmax import GumbelLogRatios, GumbelSoftmax, RelaxedClass
from vmix.distributions.hidden_semi_markov import HiddenSemiMarkov
from vmix.distributions.markov_chain import MarkovChain
from vmix.distributions.scaled_counts import ScaledCounts
from vmix.distributions.structured import Posterior, StructuredDiscrete
from vmix.distributions.topic_counts import TopicCounts

__all__ = [
    "Augmented",
    "GumbelLogRatios",
    "GumbelSoftmax",
    "HiddenSemiMarkov",
    "MarkovChain",
    "Posterior",
    "RelaxedClass",
    "ScaledCounts",
    "StructuredDiscrete",
    "TopicCounts",
]
