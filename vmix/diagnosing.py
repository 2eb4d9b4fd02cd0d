"""`vmix.diagnose`: what speaks for a fit and what against it, each with the way out.

Source: split r-hat and effective sample size after Gelman et al. (2014) and Vehtari et al. (2021); dimensions of a
latent that carry nothing after Burda, Grosse and Salakhutdinov (2016), whose bound on the variance of the codes' means
is taken over; the shape of the tail of importance weights after Vehtari et al. (2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.special import entr

from vmix.pareto import khat

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from vmix.results import Fit

NEAR = 0.01
SURE = 0.9
ALIKE = 0.8
INACTIVE = 0.01
R_HAT = 1.05
ESS = 100
MAX_ENTRIES = 5_000
K_HAT = 0.7
CLIP = 100.0
SPIKE = 50.0
_LONGER = {"EM": "num_sweeps", "SVI": "num_steps", "Gibbs": "num_warmup"}


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        name: of the check.
        good: whether it speaks for the fit.
        text: what was found, a sentence.
        remedy: what to do if it is not good.
    """

    name: str
    good: bool
    text: str
    remedy: str


@dataclass(frozen=True)
class Diagnosis:
    """What was found, in the order in which it should be read; prints as a list."""

    findings: tuple[Finding, ...]

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that speak against the fit."""
        return tuple(finding for finding in self.findings if not finding.good)

    def __str__(self) -> str:
        lines = []
        for name, good, text, remedy in self.findings:
            lines.append(f"{'ok  ' if good else 'look'}  {name}: {text}")
            if not good:
                lines.append(f"      {remedy}")
        return "\n".join(lines)


class Mixing(NamedTuple):
    """Of one site's draws: the largest split r-hat and the smallest effective sample size; None where constant."""

    site: str
    shape: tuple[int, ...]
    r_hat: float | None
    ess: float | None


def diagnose(fit: Fit, *data: ArrayLike, held_out: ArrayLike | tuple[ArrayLike, ...] | None = None) -> Diagnosis:
    """Look at a fit for what often goes wrong.

    Args:
        fit: the fit.
        *data: the data it was fitted to, or some of their rows.
        held_out: rows that it was not fitted to, an array, or a tuple of as many as there are data.

    Returns:
        The findings: whether the objective settled, restarts agree, gradients are of a size, chains mix, variational
        factors are near the posterior (k-hat; of the globals where the data are all rows of the fit), components are
        empty or double, rows are assigned with certainty, latents carry something, and held-out rows are as likely as
        the others.

    Raises:
        TypeError: for a fit without data, and for what is no fit.

    Example:
        >>> import numpy as np, vmix
        >>> from vmix.inference import EM
        >>> from vmix.models import GaussianMixture
        >>> x = np.concatenate([np.random.default_rng(0).normal(m, 1, (50, 2)) for m in (-4, 4)])
        >>> fit = vmix.fit(GaussianMixture(num_components=2), x, engine=EM(), seed=0)
        >>> vmix.diagnose(fit, x).warnings
        ()
    """
    if not hasattr(fit, "history"):
        raise TypeError(f"diagnose takes a fit, found {type(fit).__name__}: vmix.diagnose(vmix.fit(...), x)")
    if not data:
        raise TypeError("diagnose needs the data that the fit is looked at on: vmix.diagnose(fit, x)")
    findings = [*of_history(fit), *of_gradients(fit), *of_draws(fit), *of_weights(fit, data)]
    if fit.num_components is not None:
        shares = np.asarray(fit.predict_proba(*data))
        findings += of_components(shares.reshape(-1, shares.shape[-1]))
    if fit.has_latent:
        findings.append(of_codes(np.asarray(fit.transform(*data))))
    if held_out is not None:
        others = held_out if isinstance(held_out, tuple) else (held_out,)
        findings.append(_of_held_out(np.asarray(fit.score_samples(*data)), np.asarray(fit.score_samples(*others))))
    return Diagnosis(tuple(findings))


def of_history(fit: Fit) -> list[Finding]:
    """Whether the objective came to rest, and restarts to the same place."""
    traces = np.atleast_2d(np.asarray(fit.history["objective"], dtype=np.float64))
    unit = fit.history.get("unit", "nats per datum")
    good, text = settled(fit, traces[0], unit)
    option = _LONGER.get(fit.engine_name, "steps")
    remedy = "fit again and let it end" if fit.interrupted else f"raise {option}"
    found = [Finding("objective", good, text, remedy)]
    restarts = fit.history.get("restarts")
    if restarts is not None and len(restarts) > 1:
        ends = np.sort(np.asarray(restarts, dtype=np.float64))[::-1]
        near = int((ends > ends[0] - NEAR).sum())
        text = f"{near} of {len(ends)} {word(fit)}s ended within {NEAR} {unit} of the best"
        text += f" ({ends[0]:.4f}; worst {ends[-1]:.4f})."
        found.append(Finding(f"{word(fit)}s", near > 1, text, f"more {word(fit)}s, or another start (init=)"))
    return found


def settled(fit: Fit, trace: np.ndarray, unit: str) -> tuple[bool, str]:
    """Whether the objective came to rest: the stopping rule says so, or its last tenth drifts less than it varies."""
    if trace.size == 0:
        return False, "Interrupted before the first step: these are the starting values."
    tail = trace[-max(2, trace.size // 10) :]
    half = tail.size // 2
    drift = float(tail[half:].mean() - tail[:half].mean()) if half else 0.0
    moved = f"over the last {tail.size} values the objective drifted by {drift:+.2g} {unit}"
    if fit.interrupted:
        return False, f"Interrupted after {trace.size:,} steps; {moved}."
    ended = (
        "The stopping rule was met"
        if fit.converged
        else "Every step asked for was used; no stopping rule ended the fit"
    )
    return fit.converged or abs(drift) < max(NEAR, float(tail.std())), f"{ended}; {moved}."


def of_draws(fit: Fit) -> list[Finding]:
    """Whether chains mix, by the objective: components may change names between draws, and that leaves it alone."""
    chains = num_chains(fit)
    if chains is None:
        return []
    kept = int(np.asarray(next(iter(fit.posterior.values()))).shape[1 if chains > 1 else 0])
    trace = np.atleast_2d(np.asarray(fit.history["objective"], dtype=np.float64))[:, -kept:]
    if trace.shape[1] < 4:
        return []
    r_hat, ess = _mixing(trace)
    text = f"The objective's split r-hat is {_shown(r_hat)}, its effective sample size {_shown(ess, 0)}."
    good = (r_hat is None or r_hat < R_HAT) and (ess is None or ess > ESS)
    return [Finding("mixing", good, text, "raise num_warmup and num_samples, or run more chains")]


def of_gradients(fit: Fit) -> list[Finding]:
    """Whether the gradients of the last tenth of the steps are of a size: none far larger than the others, few cut."""
    norms = fit.history.get("gradient_norm")
    if norms is None or np.size(norms) == 0:
        return []
    norms = np.atleast_2d(np.asarray(norms, np.float64))[0]
    first, last = norms[: max(1, norms.size // 10)], norms[-max(1, norms.size // 10) :]
    cut, usual, largest = float((last > CLIP).mean()), float(np.median(last)), float(last.max())
    text = (
        f"The norm of the gradient is {usual:.2g} over the last {last.size:,} steps (median; largest {largest:.2g}), "
    )
    text += f"{np.median(first):.2g} over the first; {cut:.0%} of the last are above {CLIP:g}, where Adam's are cut."
    good = bool(np.isfinite(largest)) and cut < 0.05 and largest <= SPIKE * max(usual, 1e-6)
    return [Finding("gradient", good, text, "a lower learning_rate, larger minibatches, or standardised data")]


def of_weights(fit: Fit, data: tuple) -> list[Finding]:
    """Whether importance weights of the variational factors have tails that an average survives."""
    import jax

    from vmix import importance

    key = jax.random.key(0)  # any key: a diagnosis
    arrays, found = tuple(np.asarray(a) for a in data), []
    if getattr(fit, "factors", None) and not fit.has_latent and len(arrays[0]) == fit._plan.num_rows:
        k = khat(importance.of_globals(fit, arrays, key=key))
        text = f"The importance weights of the globals' normal factors have k-hat {k:.2f}; up to {K_HAT} is usable."
        remedy = "more steps, other parameters for the globals, or Gibbs(); do not read posterior widths off this fit"
        found.append(Finding("k-hat", k < K_HAT, text, remedy))
    if fit.has_latent and fit.engine_name in ("SVI", "EM"):
        shapes = np.array([khat(weights) for weights in importance.of_encoder(fit, arrays, key=key)])
        far = float((shapes >= K_HAT).mean())
        text = f"In {far:.0%} of {len(shapes)} rows the encoder's importance weights have k-hat {K_HAT} or more."
        remedy = "wider hidden layers, more steps, or a smaller latent_dim; the bound is loose on those rows"
        found.append(Finding("encoder's k-hat", far <= 0.5, text, remedy))
    return found


def of_components(shares: np.ndarray) -> list[Finding]:
    """Empty and double components, and how sure the assignments are.

    Args:
        shares: responsibilities, shape (N, K).

    Example:
        >>> [finding.good for finding in of_components(np.eye(3)[[0, 1, 0]])]
        [False, True, True]
    """
    num = shares.shape[1]
    counts = np.bincount(shares.argmax(1), minlength=num)
    held, empty = counts[counts > 0], np.flatnonzero(counts == 0)
    text = f"Components hold {held.min():,} to {held.max():,} rows. "
    named = ", ".join(map(str, empty[:20]))
    text += f"No row is assigned to {len(empty)} of them: {named}." if len(empty) else "None is empty."
    found = [Finding("empty components", not len(empty), text, "fewer components, or fit.prune(x)")]
    lengths = np.sqrt(np.square(shares).sum(0))
    like = shares.T @ shares / np.maximum(np.outer(lengths, lengths), 1e-30)
    pairs = [(i, j) for i, j in np.argwhere(np.triu(like, 1) > ALIKE).tolist()]
    if num > 1:
        named = ", ".join(f"{i} and {j}" for i, j in pairs[:10])
        text = f"These share their rows: {named}." if pairs else "No two components share their rows."
        remedy = 'fewer components, more starts (restarts=), or a start that merges (init="merge")'
        found.append(Finding("double components", not pairs, text, remedy))
        sure = float((shares.max(1) > SURE).mean())
        entropy = float(entr(shares).sum(1).mean())
        text = f"In {sure:.0%} of the rows one component has more than {SURE} of the probability; the mean entropy of "
        text += f"the responsibilities is {entropy:.2g} nats, of at most {np.log(num):.2g}."
        found.append(Finding("certainty", sure > 0.5, text, "fewer components; read predict_proba, not predict"))
    return found


def of_codes(codes: np.ndarray) -> Finding:
    """Dimensions of the latent that do not tell one datum from another (posterior collapse).

    Args:
        codes: the encoder's means, shape (N, latent_dim).
    """
    spread = codes.reshape(-1, codes.shape[-1]).var(0)
    idle = np.flatnonzero(spread < INACTIVE)
    text = f"{len(spread) - len(idle)} of {len(spread)} dimensions of the latent differ between rows."
    remedy = "a smaller latent_dim, kl_warmup, or more epochs of pre-training"
    return Finding("latent", len(idle) <= len(spread) // 2, text, remedy)


def _of_held_out(seen: np.ndarray, unseen: np.ndarray) -> Finding:
    gap = float(seen.mean() - unseen.mean())
    error = float(np.sqrt(seen.var() / len(seen) + unseen.var() / len(unseen)))
    text = f"Held-out rows have {unseen.mean():.3f} nats per datum, {gap:+.3f} below the others (error {error:.3f})."
    return Finding("held out", gap < 3 * error, text, "fewer components, stronger priors, or more data")


def mixing_of_sites(fit: Fit) -> list[Mixing]:
    """Split r-hat and effective sample size of each site with draws of at most 5,000 numbers."""
    chains = num_chains(fit)
    found = []
    for site, values in fit.posterior.items() if chains is not None else ():
        draws = np.asarray(values) if (chains or 1) > 1 else np.asarray(values)[None]
        if draws.shape[1] < 4 or not np.issubdtype(draws.dtype, np.floating) or draws[0, 0].size > MAX_ENTRIES:
            continue
        found.append(Mixing(site, draws.shape[2:], *_mixing(draws)))
    return found


def _mixing(draws: np.ndarray) -> tuple[float | None, float | None]:
    from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

    with np.errstate(all="ignore"):  # a constant entry, such as a simplex of one, has no variance to compare
        r_hat, ess = np.ravel(split_gelman_rubin(draws)), np.ravel(effective_sample_size(draws))
    r_hat, ess = r_hat[np.isfinite(r_hat)], ess[np.isfinite(ess)]
    return (float(r_hat.max()) if r_hat.size else None), (float(ess.min()) if ess.size else None)


def _shown(value: float | None, digits: int = 3) -> str:
    return "that of a constant" if value is None else f"{value:,.{digits}f}"


def word(fit: Fit) -> str:
    """What the objective's several traces are."""
    return "chain" if (num_chains(fit) or 1) > 1 else "restart"


def num_chains(fit: Fit) -> int | None:
    """Number of chains, or None where the posterior holds no draws."""
    if fit.engine_name != "Gibbs":
        return None
    return _option(fit.settings, "num_chains") or 1


def _option(settings: Mapping[str, Any], name: str) -> int | None:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found = _option(value, name)
            if found is not None:
                return found
        elif key == name:
            return int(value)
    return None
