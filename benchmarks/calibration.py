"""Are Gibbs posteriors calibrated, and how far is SVI's? Ranks of simulated truths among draws of their posterior."""

import argparse
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from benchmarks._calibration import STUDIES, Factors, Study, simulate
from benchmarks._ranks import NUM_BINS, Verdict, histogram, judge, ranks
from benchmarks._recording import RESULTS, Case, is_recorded, record

NUM_DRAWS = 31
LIMIT = 1e-4
WITH_SVI = ("GaussianMixture", "BernoulliMixture", "DirichletProcessMixture", "HMM", "LDA")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=tuple(STUDIES), default=list(STUDIES))
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    for name in options.cases:
        by_gibbs(name, options.simulations, options.seed, folder=options.folder)
    for name in (name for name in options.cases if name in WITH_SVI):
        by_svi(name, options.simulations, options.seed, folder=options.folder)


def by_gibbs(name: str, num_simulations: int, seed: int, *, folder: Path) -> None:
    """Rank the truths among Gibbs draws; record p-values and how large the deviations are, and draw the histograms."""
    chain = STUDIES[name].chain
    settings = {"simulations": num_simulations, "draws": NUM_DRAWS, "warmup": chain.num_warmup, "thin": chain.thin}
    case = Case(benchmark="calibration", case=name, variant="vmix, Gibbs", seed=seed, settings=settings)
    if is_recorded(case, folder):
        print(f"{name}: recorded before")
        return
    began = time.process_time()
    truth, draws = simulate(
        STUDIES[name], sampler=chain, num_simulations=num_simulations, num_draws=NUM_DRAWS, seed=seed
    )
    found, verdicts = judged(truth, draws, seed=seed)
    record(case, metrics_of(verdicts), time.process_time() - began, folder)
    picture(name, found, folder / "pictures")
    print(f"{name}: smallest p-value {min(min(v.chi2, v.ks) for v in verdicts.values()):.2g}", flush=True)


def by_svi(name: str, num_simulations: int, seed: int, *, folder: Path) -> None:
    """Standard deviations of SVI's draws over those of Gibbs on the same data, and the ranks' deviation."""
    study, sampler = STUDIES[name], Factors()
    settings = {"simulations": num_simulations, "draws": NUM_DRAWS, "steps": sampler.num_steps, "start": "the truth"}
    case = Case(benchmark="calibration", case=f"{name}, SVI", variant="vmix, SVI", seed=seed, settings=settings)
    if is_recorded(case, folder):
        print(f"{name}, SVI: recorded before")
        return
    began = time.process_time()
    options = {"num_simulations": num_simulations, "num_draws": NUM_DRAWS, "seed": seed}
    truth, draws = simulate(study, sampler=sampler, start_at_truth=True, **options)
    exact = simulate(study, sampler=study.chain, **options)[1]
    globals_ = ranked_by_svi(study, draws)
    ratios = {name: float(np.median(draws[name].std(1) / np.maximum(exact[name].std(1), 1e-6))) for name in globals_}
    _, verdicts = judged(truth, draws, seed=seed)
    metrics = {f"sd over that of Gibbs, {name}": ratio for name, ratio in ratios.items()}
    metrics |= {"smallest sd over that of Gibbs": min(ratios.values())}
    metrics |= {f"spread of the ranks, {name}": verdicts[name].spread for name in globals_}
    record(case, metrics, time.process_time() - began, folder)
    print(f"{name}, SVI: sd over that of Gibbs {min(ratios.values()):.2f} to {max(ratios.values()):.2f}", flush=True)


def ranked_by_svi(study: Study, names: Collection[str]) -> list[str]:
    """The quantities that hang on no row's own latents."""
    other = [name for name in names if name.startswith("log") or "row" in name or "data" in name]
    return [name for name in names if name not in (*other, *study.of_latents)]


def judged(
    truth: Mapping[str, np.ndarray], draws: Mapping[str, np.ndarray], *, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, Verdict]]:
    """Ranks of every quantity, and the tests of each."""
    found = {name: ranks(truth[name], draws[name], seed=seed + i) for i, name in enumerate(sorted(truth))}
    num_draws = next(iter(draws.values())).shape[1]
    return found, {name: judge(found[name], num_draws=num_draws, seed=seed) for name in found}


def metrics_of(verdicts: Mapping[str, Verdict]) -> dict[str, float]:
    """The worst of all quantities, and the smaller p-value of each."""
    worst = {
        "statistics": len(verdicts),
        "smallest p-value, chi-square": min(v.chi2 for v in verdicts.values()),
        "smallest p-value, Kolmogorov-Smirnov": min(v.ks for v in verdicts.values()),
        "gap: largest shift of a mean rank": max(abs(v.shift) for v in verdicts.values()),
        "smallest spread of the ranks": min(v.spread for v in verdicts.values()),
        "largest spread of the ranks": max(v.spread for v in verdicts.values()),
    }
    return worst | {f"p-value, {name}": min(v.chi2, v.ks) for name, v in verdicts.items()}


def picture(name: str, found: Mapping[str, np.ndarray], folder: Path) -> None:
    """Rank histograms of all quantities, with the band in which 99 of 100 bins of a uniform law lie."""
    columns = 4
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(11, 1.9 * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True)).ravel()
    for axis in axes[len(found) :]:
        axis.set_axis_off()
    for axis, (quantity, values) in zip(axes, sorted(found.items()), strict=False):
        low, high = stats.binom.interval(0.99, len(values), 1 / NUM_BINS)
        axis.axhspan(low, high, color="0.88")
        axis.bar(np.arange(NUM_BINS), histogram(values, num_draws=NUM_DRAWS), width=0.9, color="tab:blue")
        axis.set_title(quantity, fontsize=9)
        axis.set_xticks([])
    figure.suptitle(f"{name} by Gibbs: ranks of {len(values)} simulated truths", fontsize=11)
    folder.mkdir(parents=True, exist_ok=True)
    stem = name.replace(", ", "_").lower()
    figure.savefig(folder / f"calibration_{stem}.png", dpi=70)


if __name__ == "__main__":
    main()
