"""HMMVAEMLDA: images and words that follow each other are found from both, and their order tells what is absent."""

import numpy as np
import pytest

import vmix
from vmix.inference import EM, SVI, Gibbs
from vmix.metrics import accuracy
from vmix.models import HMMVAEMLDA

N, T, K = 30, 12, 3
RNG = np.random.default_rng(0)
LABELS = (np.arange(T) + np.arange(N)[:, None]) % K
IMAGES = np.clip(RNG.normal(np.eye(K)[LABELS].repeat(4, -1) * 0.6 + 0.2, 0.3), 0, 1).astype(np.float32)
TOPICS = RNG.dirichlet(np.full(8, 0.5), K)
WORDS = np.stack([RNG.multinomial(6, TOPICS[k]) for k in LABELS.ravel()]).reshape(N, T, 8)
SEEN = np.ones((N, T), int)
MODEL = HMMVAEMLDA(num_components=K, latent_dim=2, hidden=(16,), weight=None, starts=4)


@pytest.mark.slow
def test_the_chain_is_summed_out_and_both_children_compress():
    rows = {row.site: row for row in vmix.explain(MODEL, IMAGES, WORDS, SEEN, engine=EM()).rows}
    assert rows["c"].family == "MarkovChain" and "transition" in rows["c"].parents
    assert rows["phi"].update == "closed-form mode, Dirichlet" and rows["precision"].update.endswith("Wishart")
    assert rows["y"].update == "one matrix product"


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine", [EM(num_sweeps=5), SVI(num_steps=200), Gibbs(num_samples=20, num_warmup=20)], ids=lambda e: e.name
)
def test_every_engine_finds_the_classes_and_their_order(engine):
    fit = vmix.fit(MODEL, IMAGES, WORDS, SEEN, engine=engine, seed=0)
    assert accuracy(LABELS.ravel(), fit.predict(IMAGES, WORDS, SEEN).ravel()) > 0.98
    transition = fit.posterior["transition"].reshape(-1, K, K).mean(0)
    assert (transition.max(-1) > 0.9).all()
    # half of the steps without an image, and half without words: their neighbours tell
    seen, words = SEEN.copy(), WORDS.copy()
    seen[:, ::2], words[:, 1::2] = 0, 0
    assert accuracy(LABELS.ravel(), fit.predict(IMAGES, words, seen).ravel()) > 0.95


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((IMAGES[:, 0], WORDS), r"x must have shape \(N, T, D\): N sequences of T steps; found \(30, 12\)"),
        ((IMAGES, WORDS[:, :5]), r"y must have shape \(30, 12, 'V'\), one row of counts a step; found \(30, 5, 8\)"),
        ((IMAGES, WORDS - 1), "y.*negative"),
        ((IMAGES, WORDS, SEEN[:, 0]), r"seen must have shape \(30, 12\) and hold 0 and 1 only"),
        ((IMAGES, 0 * WORDS), "y has no tokens"),
    ],
)
def test_bad_data_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        vmix.fit(MODEL, *data, engine=EM(), seed=0)
