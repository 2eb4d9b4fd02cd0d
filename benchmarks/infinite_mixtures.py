"""Does it pay to fit a mixture together with the network, and to leave its number of components open, on MNIST?

The rows are those of Table 2 of "Deep Infinite Mixture Latent Variable Models" (Nagpal et al.), its Algorithm 1 among
them (`_algorithm1.py`), and a deep mixture with an open number of components fitted by one objective. All is fitted to
the 60,000 training images and measured on the 10,000 test images, whose labels are read after a fit alone. A line is
appended after every run, so that a grid that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

import vmix
from benchmarks._algorithm1 import Alternation
from benchmarks._algorithm1_run import run as run_algorithm1
from benchmarks._code_mixtures import PEER, VARIANTS, MixtureSettings, cluster, log_likelihood
from benchmarks._infinite_networks import Images, Networks, NetworkSettings, has_model, source_of_weights
from benchmarks._infinite_pictures import write_curves
from benchmarks._infinite_work import Work, measure, summarise_curves
from benchmarks._recording import RESULTS
from vmix.metrics import accuracy, completeness, nmi

# the network, and the mixture that is fitted to its codes
AFTERWARDS = {
    "vae+kmeans": ("VAE", "kmeans"),
    "vae+gmm": ("VAE", "gmm"),
    "vae+dpgmm": ("VAE", "dpgmm"),
    "gmvae+dpgmm": ("GMVAE", "dpgmm"),
}
TOGETHER = {"gmvae": "GMVAE", "infinite_vade": "InfiniteVaDE"}
# the relaxation, and whether the weights come from another fit; the paper does not say which it went on from those with
ALTERNATING = {"soft": ("soft", False), "hard": ("hard", False), "pretrained": ("soft", True)}
LATENT = {"algorithm1": "component", "algorithm1_code": "code"}
CASES = (*AFTERWARDS, *TOGETHER, *(f"{reading}/{how}" for reading in LATENT for how in ALTERNATING))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not in the file yet."""
    options = _options(arguments)
    images = load_images(options.rows)
    mixtures = MixtureSettings(sweeps=options.mixture_sweeps)
    for latent_dim in options.latent_dims:
        settings = NetworkSettings(
            latent_dim=latent_dim,
            epochs=options.epochs,
            pretrained_epochs=options.pretrained_epochs,
            hidden=tuple(options.hidden) if options.hidden else None,
            relaxation=options.relaxation,
        )
        for seed in options.seeds:
            work = Work(
                images=images,
                seed=seed,
                folder=options.folder,
                networks=Networks(images, settings, seed),
                mixtures=mixtures,
                algorithm1_epochs=options.algorithm1_epochs,
                with_peers=not options.without_peers,
            )
            for method in options.cases:
                run(work, method)


def load_images(rows: int | None) -> Images:
    """MNIST's two splits, their first rows only where a number is given."""
    train = vmix.data.load("mnist", split="train", limit=rows)
    test = vmix.data.load("mnist", split="test", limit=rows)
    return Images(train.images, test.images, test.labels)


def run(work: Work, method: str) -> None:
    """Run one method, unless it is recorded or needs a model that the zoo has not got."""
    network = TOGETHER.get(method) or AFTERWARDS.get(method, ("VAE",))[0]
    if not has_model(network):
        print(f"{method}: vmix.models has no {network}; left out")
    elif method in AFTERWARDS:
        _afterwards(work, method)
    elif method in TOGETHER:
        _together(work, method)
    else:
        _alternating(work, method)


def _afterwards(work: Work, method: str) -> None:
    """A mixture on the codes of a network that is fitted without it."""
    network, kind = AFTERWARDS[method]
    settings = work.networks.describe(network) | {"mixture": work.mixtures.of(kind)}
    variants = VARIANTS[kind] if work.with_peers else VARIANTS[kind][:1]
    for variant in variants:
        case = work.case(method, variant, **settings)
        if not work.is_open(case):
            continue
        codes = work.networks.get(network)
        found = cluster(kind, variant, codes.train, codes.test, work.mixtures, seed=work.seed)
        size = work.mixtures.truncation if kind == "dpgmm" else work.mixtures.num_components
        metrics = measure(work.images.labels, found.predicted, num_components=size)
        if found.density is not None:
            metrics["log_likelihood"] = log_likelihood(found.density, codes.test)
            metrics["log_likelihood_train"] = log_likelihood(found.density, codes.train)
        metrics |= {"settled": found.settled, "elbo": codes.fit.score(work.images.test)}
        metrics |= {"seconds_network": codes.seconds, "seconds_mixture": found.seconds}
        work.keep(case, metrics, codes.seconds + found.seconds)
        if work.seed == 0 and variant == VARIANTS[kind][0]:
            work.album.scatter(work.picture_name(method), network, codes.test, found.predicted)
            if kind == "kmeans":
                work.show_reconstructions("vae", codes.fit.reconstruct)


def _together(work: Work, method: str) -> None:
    """A mixture that is fitted with its network."""
    network = TOGETHER[method]
    case = work.case(method, "vmix", **work.networks.describe(network))
    if not work.is_open(case):
        return
    found = work.networks.get(network)
    predicted = found.fit.predict(work.images.test)
    metrics = measure(work.images.labels, predicted, num_components=found.fit.num_components)
    metrics |= {"elbo": found.fit.score(work.images.test), "seconds_network": found.seconds}
    if found.nmi_by_epoch:
        metrics |= {f"nmi_sd_last_{len(found.nmi_by_epoch)}": float(np.std(found.nmi_by_epoch))}
        metrics |= {f"nmi_lowest_last_{len(found.nmi_by_epoch)}": min(found.nmi_by_epoch)}
        watched = {"nmi": found.nmi_by_epoch, "loss": -found.fit.history["objective"][-len(found.nmi_by_epoch) :]}
        write_curves(work.album.folder / f"{work.picture_name(method)}_curves.csv", watched)
        if work.seed == 0:
            work.album.curves(work.picture_name(method), watched)
            work.show_curves_together()
    work.keep(case, metrics, found.seconds)
    if work.seed == 0:
        name = work.picture_name(method)
        work.album.scatter(name, network, found.test, predicted)
        work.show_reconstructions(method, found.fit.reconstruct)
        work.album.samples(name, found.fit, predicted, seed=work.seed)


def _alternating(work: Work, method: str) -> None:
    """Algorithm 1, with its curves."""
    reading, how = method.split("/")
    relaxation, pretrained = ALTERNATING[how]
    settings = Alternation(
        relaxation=relaxation,
        latent_dim=work.latent_dim,
        hidden=work.networks.settings.widths(work.images.train.shape[1]),
        latent=LATENT[reading],
        epochs=work.algorithm1_epochs,
    )
    source, epochs = source_of_weights(), work.networks.settings.pretrained_epochs
    begin = work.networks.describe(source, epochs) if pretrained else None
    case = work.case(method, f"networks vmix, mixture {PEER}", algorithm1=asdict(settings), start=begin)
    if not work.is_open(case):
        return
    start = work.networks.get(source, epochs) if pretrained else None
    labels = work.images.labels
    found = run_algorithm1(
        work.images.train,
        work.images.test,
        settings,
        seed=work.seed,
        start=start.fit.params if start else None,
        watch=lambda predicted: {
            "nmi": nmi(labels, predicted),
            "completeness": completeness(labels, predicted),
            "accuracy": accuracy(labels, predicted),
        },
    )
    metrics = measure(labels, found.predicted, num_components=settings.num_components) | summarise_curves(found.curves)
    metrics |= {"seconds_networks": found.seconds_networks, "seconds_mixture": found.seconds_mixture}
    seconds = found.seconds_networks + found.seconds_mixture + (start.seconds if start else 0.0)
    name = work.picture_name(method)
    write_curves(work.album.folder / f"{name}_curves.csv", found.curves)
    work.keep(case, metrics | {"unsettled_mixtures": found.unsettled}, seconds)
    if work.seed == 0:
        work.album.curves(name, found.curves)
        work.show_curves_together()
        work.album.scatter(name, method, found.codes, found.predicted)
        work.show_reconstructions(method, found.reconstruct)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--latent-dims", nargs="+", type=int, default=[8, 10, 16, 64])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=30, help="of every network")
    parser.add_argument("--algorithm1-epochs", type=int, default=100)
    parser.add_argument(
        "--pretrained-epochs", type=int, default=70, help="of the network that Algorithm 1 goes on from"
    )
    parser.add_argument("--mixture-sweeps", type=int, default=200, help="of a mixture on codes, at most")
    parser.add_argument(
        "--without-peers", action="store_true", help="no second fit of a mixture on codes by scikit-learn (slow)"
    )
    parser.add_argument(
        "--relaxation", choices=("soft", "hard"), help="of the GMVAE's class; by default it is summed out"
    )
    parser.add_argument("--hidden", nargs="+", type=int, help="by default the models' own widths")
    parser.add_argument("--rows", type=int, help="the first rows of both splits only")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
