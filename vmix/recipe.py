"""How a fit begins, as a record: the stages of a start and their options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from vmix.options import Range, checked

CLUSTERS = ("k-means", "random", "merge", "evidence", "prior")


@checked(
    clusters=CLUSTERS,
    pretrain_epochs=0,
    noise=Range(0.0, below=1.0),
    distort=0.0,
    copies=0,
    mixture_moves=0,
    settle_steps=0,
    mixture_beta=Range(above=0.0, most=1.0),
)
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to begin.

    Args:
        clusters: "k-means", "random" (nearest of K random data), "merge" (a Gaussian mixture with four times as many
            components, merged pair by pair), "evidence" (K components, merged as long as the evidence rises; the others
            begin empty: for truncations) or "prior" (globals drawn from their prior).
        pretrain_epochs: epochs of autoencoder training before a deep mixture, or as many as make 3,000 steps where
            that is more (small data); 0 leaves the networks as drawn.
        noise: fraction of the inputs set to zero in that training (a denoising autoencoder).
        distort: strength of random distortions of the first array, square images, in what the encoder sees in that
            training (at 1 up to 2 pixels of 28, 0.2 radians, 15 % in size); the decoder makes the image as it was.
        copies: further views from each encoder when the mixture is started: its codes of so many distorted copies of
            the images, which have the class of the image that they come from, and its encoder's components.
        views: encoders trained that way, each from its own draw. Their codes are views of one datum with one class
            between them when the mixture is started; the first encoder and its components go on.
        viewer: another program of the same data and classes, with a smaller latent say, whose encoders are the views in
            place of the program's own. Its whole start is made first; the program's own encoder is trained beside it,
            and its components are those of the viewer's classes. None: the program itself.
        batch_size: rows a step of that training.
        learning_rate: of Adam in that training, decayed by a cosine.
        mixture_restarts: starts of the mixture on the codes; the likeliest is kept.
        mixture_sweeps: EM sweeps of each.
        mixture_beta: weight of the codes' likelihood in the first of those sweeps; it rises to 1 over the first six
            tenths of them (annealing). 1 does not anneal.
        mixture_moves: after each start, at most so many moves that split one component while two others become one,
            each taken where it raises the objective after another run of sweeps.
        settle_steps: steps of networks and globals on the bound with every datum's class held, after the mixture on the
            codes, where the data are few: where `pretrain_epochs` are less than the 3,000 steps. 0 leaves them out.
    """

    clusters: str = "k-means"
    pretrain_epochs: int = 30
    noise: float = 0.0
    distort: float = 0.0
    copies: int = 0
    views: int = 1
    viewer: Any = None
    batch_size: int = 256
    learning_rate: float = 1e-3
    mixture_restarts: int = 8
    mixture_sweeps: int = 60
    mixture_beta: float = 1.0
    mixture_moves: int = 0
    settle_steps: int = 1_000

    def __post_init__(self) -> None:
        if self.copies and not self.distort:
            raise ValueError(
                f"Recipe(copies={self.copies}) asks for distorted copies of the images, but distort is 0: give "
                "distort=1.0, or copies=0"
            )


class Stage(NamedTuple):
    """What a stage did: its name, seconds, objective (nats per datum) and a note."""

    name: str
    seconds: float
    objective: list[float]
    note: str


class Reached(NamedTuple):
    """How far a stage has come: what it computed, the epochs done, their objectives, and the seconds they took."""

    values: Any
    done: int
    objective: list[float]
    seconds: float
    note: str = ""


def _nothing(*_: Any, **__: Any) -> None:
    """Nobody looks on, and nothing was kept."""


class Watch(NamedTuple):
    """Who looks on while a start is made.

    Attributes:
        report: called with (stage, done, total, objective) as it goes.
        recall: called with (place, values of the same shapes), gives what was `Reached` before, or None.
        retain: called with (place, `Reached`); with `at_once=True` where a stage has ended.
        place: which part of the start it is.
    """

    report: Callable[[str, int, int, float], None] = _nothing
    recall: Callable[..., Reached | None] = _nothing
    retain: Callable[..., None] = _nothing
    place: str = "start"

    def at(self, name: str) -> Watch:
        """The same for a part of this one."""
        return self._replace(place=f"{self.place}, {name}")


SILENT = Watch()
