"""Small faults in the library's mathematics, each with the tests that should see it."""

# Length: a table, a paragraph a fault

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = (".git", ".venv", ".*_cache", "__pycache__", "*.egg-info", "build", "runs")


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One change of one line.

    Args:
        claim: what is wrong now, in words.
        file: from the root of the checkout.
        old: text that stands in the file once.
        new: text in its place.
        tests: files or node ids that should fail.
        slow: whether they are slow tests.
    """

    claim: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    slow: bool = False

    def changed(self, text: str) -> str:
        """The text with the fault.

        Raises:
            ValueError: where the old text does not stand in it exactly once.
        """
        if text.count(self.old) != 1:
            raise ValueError(f"{self.claim}: {self.old!r} stands {text.count(self.old)} times in {self.file}")
        return text.replace(self.old, self.new)


class Copy:
    """A copy of the checkout in which one file at a time is changed.

    Args:
        folder: where it is made; what is compiled is kept beside it, from one run to the next.
    """

    def __init__(self, folder: Path) -> None:
        self.tree, self.cache = folder / "tree", folder / "cache"
        shutil.rmtree(self.tree, ignore_errors=True)
        shutil.copytree(ROOT, self.tree, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))

    def failures(self, mutant: Mutant) -> list[str]:
        """Run a mutant's tests with its fault, up to the first that fails.

        Returns:
            Node ids of tests that fail.

        Raises:
            RuntimeError: where tests could not be run.
        """
        path = self.tree / mutant.file
        sound = path.read_text()
        path.write_text(mutant.changed(sound))
        try:
            return self.run(mutant.tests, slow=mutant.slow)
        finally:
            path.write_text(sound)

    def run(self, tests: Sequence[str], *, slow: bool) -> list[str]:
        """Run tests, the slow ones among them too or not; node ids of those that fail, up to the first."""
        options = ["-x", "-q", "-rfE", "--no-header", "--tb=no", "-o", f"cache_dir={self.cache}"]
        command = [sys.executable, "-m", "pytest", *options, *(["-m", ""] if slow else []), *tests]
        run = subprocess.run(command, cwd=self.tree, capture_output=True, text=True)
        lines = (line.split(" - ")[0].split(" ", 1) for line in run.stdout.splitlines())
        found = [pair[1] for pair in lines if len(pair) == 2 and pair[0] in ("FAILED", "ERROR")]
        if run.returncode not in (0, 1, 2) or (run.returncode and not found):
            raise RuntimeError(f"{' '.join(command)} ended with {run.returncode}: {run.stdout[-2000:]}{run.stderr}")
        return found


_JOINT = "tests/statistics/test_joint_distribution.py::test_few_sweeps_keep_the_joint_distribution"
_MANY = _JOINT.replace("few", "many")
_NUMERICS = ("tests/vmix/test_numerics.py",)
_DRAWS = ("tests/vmix/test_draws.py",)
_EXPONENTS = ("tests/vmix/test_conditionals_exponents.py",)
_CONDITIONALS = ("tests/vmix/test_conditionals.py",)
_FAMILIES = ("tests/vmix/test_families.py",)
_CHAIN = ("tests/distributions/test_markov_chain.py",)
_SEGMENTS = ("tests/distributions/test_hidden_semi_markov.py",)
_TOPICS = ("tests/distributions/test_topic_counts.py",)

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        claim="log 0 is -690",
        file="vmix/numerics.py",
        old="return jnp.where(impossible, -jnp.inf, jnp.log(",
        new="return jnp.where(impossible, -690.0, jnp.log(",
        tests=_NUMERICS,
    ),
    Mutant(
        claim="the total of responsibilities lacks what was taken out",
        file="vmix/numerics.py",
        old="log_total = jnp.where(jnp.isneginf(top), 0, top) + safe_log(total)",
        new="log_total = safe_log(total)",
        tests=_NUMERICS,
    ),
    Mutant(
        claim="cumulative sums run from the other end",
        file="vmix/numerics.py",
        old="below = jnp.tril(",
        new="below = jnp.triu(",
        tests=_NUMERICS,
    ),
    Mutant(
        claim="Marsaglia and Tsang's d is a quarter off, not a third",
        file="vmix/draws.py",
        old="concentration + small, 1) - 1 / 3",
        new="concentration + small, 1) - 1 / 4",
        tests=_DRAWS,
    ),
    Mutant(
        claim="the bound of the Gamma proposal has x^2 for x^2 / 2",
        file="vmix/draws.py",
        old="bound = 0.5 * x**2 +",
        new="bound = x**2 +",
        tests=_DRAWS,
    ),
    Mutant(
        claim="Gamma draws below 1 take U^a for U^(1/a)",
        file="vmix/draws.py",
        old="log_u / jnp.where(proper, concentration, 1)",
        new="log_u * jnp.where(proper, concentration, 1)",
        tests=_DRAWS,
    ),
    Mutant(
        claim="the rate of a Gamma conditional has the gradient's sign flipped",
        file="vmix/conditionals_scalar.py",
        old="return GammaExponent(power, power / value - gradient)",
        new="return GammaExponent(power, power / value + gradient)",
        tests=_CONDITIONALS,
    ),
    Mutant(
        claim="a Gamma draw has the concentration less 1",
        file="vmix/conditionals_scalar.py",
        old="log_draw = log_gamma_draws(key, self.power + 1)",
        new="log_draw = log_gamma_draws(key, self.power)",
        tests=_EXPONENTS,
    ),
    Mutant(
        claim="the mode of an inverse Gamma is its mean",
        file="vmix/conditionals_scalar.py",
        old="mode = self.rate / jnp.where(inside, self.power, 1)",
        new="mode = self.rate / jnp.where(inside, self.power - 2, 1)",
        tests=(*_CONDITIONALS, *_EXPONENTS),
    ),
    Mutant(
        claim="both Gamma variables of a Beta draw share a key",
        file="vmix/conditionals_scalar.py",
        old="log_draw0 = log_gamma_draws(key0,",
        new="log_draw0 = log_gamma_draws(key1,",
        tests=_EXPONENTS,
    ),
    Mutant(
        claim="a Beta conditional has its second power without (1 - v)",
        file="vmix/conditionals_scalar.py",
        old="return BetaExponent(power1, -rest * (rest * gradient + curvature))",
        new="return BetaExponent(power1, -(rest * gradient + curvature))",
        tests=_CONDITIONALS,
    ),
    Mutant(
        claim="Normal draws have the precision for a standard deviation's inverse",
        file="vmix/conditionals_normal.py",
        old="+ noise * jax.lax.rsqrt(self.precision)",
        new="+ noise / self.precision",
        tests=_EXPONENTS,
    ),
    Mutant(
        claim="draws of a Normal block use L^-1 for L^-T",
        file="vmix/conditionals_normal.py",
        old="lower=True, trans=1)[..., 0]\n        return self.mode(self.anchor) + step",
        new="lower=True, trans=0)[..., 0]\n        return self.mode(self.anchor) + step",
        tests=("tests/vmix/test_conditionals_exponents.py::test_normal_draws_have_the_moments_of_their_family",),
    ),
    Mutant(
        claim="a Dirichlet draw has each concentration less 1",
        file="vmix/conditionals_simplex.py",
        old="log_draws = log_gamma_draws(key, self.power + 1)",
        new="log_draws = log_gamma_draws(key, jnp.maximum(self.power, 0.1))",
        tests=(
            "tests/vmix/test_conditionals_exponents.py::test_beta_and_dirichlet_draws_have_the_moments_of_their_family",
        ),
    ),
    Mutant(
        claim="exp E[log w] lacks the digamma of the total",
        file="vmix/conditionals_simplex.py",
        old="log_point = digamma(alpha) - digamma(jnp.sum(alpha, axis=-1, keepdims=True))",
        new="log_point = digamma(alpha) - jnp.log(jnp.sum(alpha, axis=-1, keepdims=True))",
        tests=("tests/inference/test_em_mean_field.py::test_expected_point_is_exp_of_the_expected_logarithm",),
    ),
    Mutant(
        claim="degrees of freedom of a Wishart are one too few",
        file="vmix/conditionals_wishart.py",
        old="return 2 * self.power + self.rate.shape[-1] + 1",
        new="return 2 * self.power + self.rate.shape[-1]",
        tests=(
            "tests/vmix/test_conditionals.py::test_recognised_conditional_is_the_textbook_posterior[wishart_precision_of_normal_data]",
        ),
    ),
    Mutant(
        claim="the mode of a Wishart's factor leaves out the volume element",
        file="vmix/conditionals_wishart.py",
        old="squares = 2 * self.power[..., None] + _countdown(_diagonal(self.rate))",
        new="squares = 2 * self.power[..., None] + 0 * _countdown(_diagonal(self.rate))",
        tests=(
            "tests/vmix/test_conditionals.py::test_recognised_conditional_is_the_textbook_posterior[cholesky_factor_of_a_wishart_precision]",
        ),
    ),
    Mutant(
        claim="the Normal family's log-normaliser has log s with the wrong sign",
        file="vmix/families_scalar.py",
        old="0.5 * jnp.square(standardised) - jnp.log(ratio)",
        new="0.5 * jnp.square(standardised) + jnp.log(ratio)",
        tests=("tests/vmix/test_families.py::test_three_parts_sum_to_the_log_density",),
    ),
    Mutant(
        claim="the Jacobian of a frame has the wrong sign",
        file="vmix/families_scalar.py",
        old="return jnp.broadcast_to(-jnp.log(frame.scale),",
        new="return jnp.broadcast_to(jnp.log(frame.scale),",
        tests=("tests/vmix/test_families_edges.py::test_log_density_survives_extreme_units",),
    ),
    Mutant(
        claim="a Poisson count's base measure is -log (x - 1)!",
        file="vmix/families_scalar.py",
        old="return -gammaln(as_float(value) + 1)",
        new="return -gammaln(jnp.maximum(as_float(value), 1))",
        tests=("tests/vmix/test_families.py::test_three_parts_sum_to_the_log_density",),
    ),
    Mutant(
        claim="the second moment of a latent lacks its variance",
        file="vmix/families_scalar.py",
        old="return jnp.stack([mean, jnp.square(mean) + variance], -1)",
        new="return jnp.stack([mean, jnp.square(mean)], -1)",
        tests=("tests/vmix/test_families.py::test_expected_statistics_match_monte_carlo",),
    ),
    Mutant(
        claim="half a log determinant counts with the wrong sign",
        file="vmix/families_vector.py",
        old="return precision, -jnp.log(jnp.diagonal(scale_tril",
        new="return precision, jnp.log(jnp.diagonal(scale_tril",
        tests=("tests/vmix/test_families.py::test_three_parts_sum_to_the_log_density",),
    ),
    Mutant(
        claim="the backward messages of a chain move along the wrong side of the transitions",
        file="vmix/distributions/chain_recursions.py",
        old="messages(evidence[1:], jnp.swapaxes(matrices, -2, -3), reverse=True)",
        new="messages(evidence[1:], matrices, reverse=True)",
        tests=("tests/distributions/test_markov_chain.py::test_posterior_and_mode_equal_enumeration",),
    ),
    Mutant(
        claim="a chain's evidence lacks the initial probabilities",
        file="vmix/distributions/chain_recursions.py",
        old="unary = unary + jnp.where(is_first, chain.log_initial[None], 0)",
        new="unary = unary + jnp.where(is_first, 0 * chain.log_initial[None], 0)",
        tests=("tests/distributions/test_markov_chain.py::test_posterior_and_mode_equal_enumeration",),
    ),
    Mutant(
        claim="what underflow loses from a chain with zero transitions is not seen",
        file="vmix/distributions/chain_recursions.py",
        old="in_any(underflow_matters(chain, messages))",
        new="in_any(underflow_matters(chain, messages) & False)",
        tests=("tests/distributions/test_chain_underflow.py",),
    ),
    Mutant(
        claim="backward sampling reads a row of the transitions for a column",
        file="vmix/distributions/chain_paths.py",
        old="_columns(shared if matrix is None else matrix, after))",
        new="_columns(jnp.swapaxes(shared if matrix is None else matrix, 0, 1), after))",
        tests=("tests/distributions/test_markov_chain.py::test_posterior_draws_follow_the_exact_joint",),
    ),
    Mutant(
        claim="a state is drawn where the sum before its own passes the uniform number",
        file="vmix/numerics.py",
        old="(sums[k] > threshold)",
        new="(sums[max(k - 1, 0)] > threshold)",
        tests=_NUMERICS,
    ),
    Mutant(
        claim="the most probable path forgets the last step's evidence",
        file="vmix/distributions/chain_paths.py",
        old="new, origin = jnp.max(scores, axis=0) + here,",
        new="new, origin = jnp.max(scores, axis=0),",
        tests=("tests/distributions/test_markov_chain.py::test_posterior_and_mode_equal_enumeration",),
    ),
    Mutant(
        claim="a segment of a semi-Markov chain counts one step too few",
        file="vmix/distributions/segment_paths.py",
        old="lasted = time - jax.lax.cummax(starts, axis=0) + 1",
        new="lasted = jnp.maximum(time - jax.lax.cummax(starts, axis=0), 1)",
        tests=(
            "tests/distributions/test_hidden_semi_markov.py::test_log_prob_and_statistics_of_paths_equal_enumeration",
        ),
    ),
    Mutant(
        claim="the segment that the end cuts off counts as if it were complete",
        file="vmix/distributions/segment_paths.py",
        old="last = beliefs[-1] + segments.log_tail",
        new="last = beliefs[-1] + segments.log_duration",
        tests=(
            "tests/distributions/test_hidden_semi_markov.py::test_posterior_and_prior_draws_follow_the_exact_joint",
        ),
    ),
    Mutant(
        claim="a token's topic is drawn from a sum of probabilities for a product",
        file="vmix/distributions/tokens.py",
        old="total = total + topic[0][document] * topic[1][word]",
        new="total = total + topic[0][document] + topic[1][word]",
        tests=("tests/distributions/test_topic_counts.py::test_drawn_statistics_have_the_posterior_s_mean_and_spread",),
    ),
    Mutant(
        claim="expected tokens of topics lack the documents' weights",
        file="vmix/distributions/tokens.py",
        old="return per_document, probs * jnp.matmul(weights.T, ratio, precision=_EXACT)",
        new="return per_document, probs * jnp.matmul(jnp.ones_like(weights.T), ratio, precision=_EXACT)",
        tests=(
            "tests/distributions/test_topic_counts.py::test_log_prob_and_expected_statistics_match_enumeration_of_every_assignment",
        ),
    ),
    Mutant(
        claim="the entropy of the latent's factor counts with the wrong sign",
        file="vmix/free_energy.py",
        old="divergence = divergence + factor_entropy(",
        new="divergence = divergence - factor_entropy(",
        tests=("tests/models/test_vade_bound.py::test_five_terms_sum_to_the_free_energy",),
    ),
    Mutant(
        claim="log-normalisers of components are left out of the expected log joint",
        file="vmix/log_joint.py",
        old=".sum() + (counts * part.bias).sum()",
        new=".sum() + (0 * counts * part.bias).sum()",
        tests=("tests/inference/test_em.py",),
    ),
    Mutant(
        claim="a label that is known does not rule the others out",
        file="vmix/log_joint.py",
        old="(known[:, None] < 0) | (known[:, None] == values), weights, -jnp.inf)",
        new="(known[:, None] < 0) | (known[:, None] == values), weights, weights - 1.0)",
        tests=("tests/contracts/test_missing_and_observed.py::test_labelled_rows_have_one_hot_responsibilities",),
    ),
    Mutant(
        claim="an entry that is missing keeps its base measure",
        file="vmix/enumeration.py",
        old="base = jnp.where(weight, base, 0.0)",
        new="base = jnp.where(weight, base, base)",
        tests=("tests/contracts/test_missing_and_observed.py::test_missing_entries_are_marginalised_exactly",),
    ),
    Mutant(
        claim="blocks are drawn given the last sweep's values of the others",
        file="vmix/updates.py",
        old="density = site_density(plan, name, values, params, batch, expected, beta=beta)",
        new="density = site_density(plan, name, globals_, params, batch, expected, beta=beta)",
        tests=(f"{_JOINT}[hierarchy]",),
        slow=True,
    ),
    Mutant(
        claim="NUTS moves without the Jacobian of its unconstrained space",
        file="inference/gibbs.py",
        old="return lambda free: -(density(free) + log_jacobian(plan, free))",
        new="return lambda free: -density(free)",
        tests=("tests/inference/test_gibbs.py",),
    ),
    Mutant(
        claim="NUTS goes on with the energy of the last sweep's conditional",
        file="inference/gibbs.py",
        old="fresh = state._replace(potential_energy=energy, z_grad=grad)",
        new="fresh = state._replace(z_grad=grad)",
        tests=(f"{_MANY}[NUTS beside a conditional]",),
        slow=True,
    ),
    Mutant(
        claim="globals are drawn given expected hidden variables for drawn ones",
        file="inference/gibbs.py",
        old='expected = gather(plan, terms, assigned, key=keys["hidden"])',
        new="expected = gather(plan, terms, assigned, key=None)",
        tests=(f"{_JOINT}[topics]",),
        slow=True,
    ),
    Mutant(
        claim="the encoder's proposals are accepted without their densities",
        file="inference/latent_moves.py",
        old="gain += log_proposal(factors, state.latents) - log_proposal(factors, proposal)",
        new="gain += 0 * log_proposal(factors, state.latents)",
        tests=(f"{_JOINT}[encoder]",),
        slow=True,
    ),
    Mutant(
        claim="Langevin moves are accepted without the way back",
        file="inference/latent_moves.py",
        old="gain += 0.5 * (_squares(plan, noise[n]) - _squares(plan, reverse))",
        new="gain += 0.0 * (_squares(plan, noise[n]) - _squares(plan, reverse))",
        tests=(f"{_JOINT}[encoder]",),
        slow=True,
    ),
    Mutant(
        claim="a chain's path is drawn as if absent steps were there",
        file="vmix/distributions/chain_paths.py",
        old="weights = weights if linked is None else jnp.where(linked, weights, belief)",
        new="weights = weights if linked is None else jnp.where(linked, weights, weights)",
        tests=(f"{_JOINT}[chain]",),
        slow=True,
    ),
    Mutant(
        claim="the prior of the globals is not divided by N in SVI's bound",
        file="inference/elbo.py",
        old="(result.log_prior - log_q) / self.num_rows)",
        new="(result.log_prior - log_q))",
        tests=("tests/inference/test_svi.py::test_map_from_the_same_start_is_em_s_optimum",),
    ),
    Mutant(
        claim="the mean-field bound is taken at the factor's mean",
        file="vmix/mean_field.py",
        old="exponent.distribution.log_prob(at))[:, 0]",
        new="exponent.distribution.log_prob(exponent.mean()))[:, 0]",
        tests=(
            "tests/inference/test_em_mean_field.py::test_two_sweeps_are_the_updates_of_blei_ng_and_jordan_written_by_hand",
            "tests/inference/test_em_mean_field.py::test_the_bound_lies_below_the_exact_evidence_and_near_it",
        ),
    ),
    Mutant(
        claim="a stick's weights lack what was broken off before",
        file="vmix/priors.py",
        old="return jnp.concatenate([zero, left], -1).at[..., :-1].add(jnp.log(v))",
        new="return jnp.concatenate([left, left[..., -1:]], -1).at[..., :-1].add(jnp.log(v))",
        tests=(
            "tests/vmix/test_conditionals.py::test_recognised_conditional_is_the_textbook_posterior[fractions_of_a_long_stick]",
        ),
    ),
    Mutant(
        claim="a component keeps the label that fits it worst",
        file="vmix/metrics.py",
        old="return linear_sum_assignment(table, maximize=True)[1]",
        new="return linear_sum_assignment(table)[1]",
        tests=("tests/vmix/test_metrics.py",),
    ),
    Mutant(
        claim="the shape of a Pareto tail is fitted with a first quartile one off by half the tail",
        file="vmix/pareto.py",
        old="quartile = excess[int(n / 4 + 0.5) - 1]",
        new="quartile = excess[int(n / 2 + 0.5) - 1]",
        tests=("tests/vmix/test_pareto.py",),
    ),
)
