"""What images say of speech and speech of images, on pairs that no fit has seen: the last 500 of the 3,000."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import vmix
from benchmarks._recording import Case, load_average, record
from benchmarks._serket_joint import COUNTED, NETWORK
from vmix.compose import Network
from vmix.inference import EM
from vmix.metrics import accuracy
from vmix.models import LDA, VaDE

NUM_HELD_OUT = 500
HELD_OUT = ("vae_gmm_mlda/joint_held_out", "vae_gmm_mlda/modules_held_out")


class Pairs(NamedTuple):
    """Images (N, 784) in [0, 1], counts (N, 2400) and labels (N,), the last for measuring alone."""

    images: np.ndarray
    speech: np.ndarray
    labels: np.ndarray


class Answers(NamedTuple):
    """A fit's answers on held-out pairs: classes from both, from images alone, from speech alone, and words."""

    both: np.ndarray
    image: np.ndarray
    speech: np.ndarray
    words: np.ndarray


def split(data: Any) -> tuple[Pairs, Pairs]:
    """The pairs to fit, and those held out."""
    images = np.asarray(data.modalities["image"], np.float32)
    every = Pairs(images, np.asarray(data.modalities["speech"]), np.asarray(data.labels))
    return Pairs(*(a[:-NUM_HELD_OUT] for a in every)), Pairs(*(a[-NUM_HELD_OUT:] for a in every))


def measure_held_out(name: str, data: Any, seed: int, *, network: Network | None, folder: Path) -> dict[str, float]:
    """Fit on the first pairs, ask about the last, and record a line beside the models of one modality.

    Args:
        name: the case.
        data: all pairs.
        seed: of the fits.
        network: connected modules over the first pairs; None for the joint program.
        folder: where the results are.

    Returns:
        The metrics: accuracies, and nats a token of the speech predicted from the image.
    """
    known, unseen = split(data)
    began = time.perf_counter()
    answers = ask_joint(known, unseen, seed) if network is None else ask_modules(network, unseen, seed)
    seconds = time.perf_counter() - began
    found = {
        f"accuracy_{part}": accuracy(unseen.labels, getattr(answers, part)) for part in ("both", "image", "speech")
    }
    found["speech_from_image_nats_per_token"] = per_token(unseen.speech, answers.words)
    share = known.speech.sum(0) + 0.05
    found["speech_alone_nats_per_token"] = per_token(unseen.speech, np.tile(share / share.sum(), (NUM_HELD_OUT, 1)))
    if network is None:
        found |= alone(known, unseen, seed)
    settings = {"held_out": NUM_HELD_OUT}
    found["load"] = load_average()
    record(Case(benchmark="serket", case=name, variant="vmix", seed=seed, settings=settings), found, seconds, folder)
    return found | {"seconds": seconds}


def ask_joint(known: Pairs, unseen: Pairs, seed: int) -> Answers:
    """The joint program."""
    seen = np.ones(len(known.labels), int)
    fit = vmix.fit(COUNTED[0], known.images, known.speech, seen, engine=COUNTED[1], seed=seed)
    there, no_words = np.ones(NUM_HELD_OUT, int), np.zeros_like(unseen.speech)
    shares = fit.predict_proba(unseen.images, no_words, there)
    return Answers(
        fit.predict(unseen.images, unseen.speech, there),
        shares.argmax(1),
        fit.predict(unseen.images, unseen.speech, 0 * there),
        shares @ fit.posterior["phi"],
    )


def ask_modules(network: Network, unseen: Pairs, seed: int) -> Answers:
    """The modules, five rounds."""
    network.fit(rounds=5, seed=seed, progress=False)
    last, speech = network.learners[-1], network["speech"]
    image_first = network.observations[0] is not speech

    def given(images: np.ndarray | None, counts: np.ndarray | None) -> tuple:
        return (images, counts) if image_first else (counts, images)

    words = network.predict(speech, *given(unseen.images, None))
    return Answers(
        network.predict(last, *given(unseen.images, unseen.speech)),
        network.predict(last, *given(unseen.images, None)),
        network.predict(last, *given(None, unseen.speech)),
        words / words.sum(1, keepdims=True),
    )


def alone(known: Pairs, unseen: Pairs, seed: int) -> dict[str, float]:
    """Accuracies of the models of one modality, fitted to the same pairs."""
    deep = vmix.fit(VaDE(views=1, mixture_restarts=8, **NETWORK), known.images, engine=EM(num_sweeps=20), seed=seed)
    topics = vmix.fit(LDA(num_components=10), known.speech, engine=EM(num_sweeps=100), seed=seed)
    return {
        "accuracy_images_only_model": accuracy(unseen.labels, deep.predict(unseen.images)),
        "accuracy_speech_only_model": accuracy(unseen.labels, topics.predict(unseen.speech)),
    }


def per_token(counts: np.ndarray, probs: np.ndarray) -> float:
    """Log-likelihood of counts, nats a token; probabilities are floored at 1e-8."""
    return float((counts * np.log(np.maximum(probs, 1e-8))).sum() / counts.sum())
