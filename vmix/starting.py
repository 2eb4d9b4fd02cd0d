"""Where a fit begins: named stages that every engine shares.

A mixture starts from a clustering of its data; a deep mixture from an autoencoder, and a mixture fitted on its codes.
Every stage reads the plan, so a program of the user's own gets the same start as a model of the zoo.
"""

from __future__ import annotations

import jax
from jax import Array

from vmix.engine import Data, Start
from vmix.mixture_start import FIRST_SWEEPS, MIXTURE_ON_CODES, fit_mixture
from vmix.plan import Plan
from vmix.pretraining import first_values, pretrain
from vmix.program import NETWORK, ProgramError
from vmix.recipe import SILENT, Reached, Recipe, Stage, Watch
from vmix.settling import settle, settle_epochs


def recipe_of(plan: Plan, choice: Recipe | str | None) -> Recipe:
    """The recipe asked for, or that of the program with the clustering of this name, or the program's own."""
    own = getattr(plan.program.source, "recipe", None)
    default = own if isinstance(own, Recipe) else Recipe()
    if choice is None:
        return default
    if isinstance(choice, str):
        return Recipe(**{**default.__dict__, "clusters": choice})
    return choice


def describe(plan: Plan, recipe: Recipe) -> list[str]:
    """The stages that a start will go through, one line each."""
    lines = []
    if pretrains(plan, recipe):
        kind = f"denoising autoencoder ({recipe.noise:.0%} of inputs dropped)" if recipe.noise else "autoencoder"
        shape = f", images distorted ({recipe.distort:g})" if recipe.distort else ""
        count = f"{recipe.views} encoders: " if recipe.views > 1 else ""
        lines.append(f"{count}{kind}{shape}, {recipe.pretrain_epochs} epochs or more, on the program's own networks")
    if plan.latents and plan.layout.discrete and plan.globals:
        annealed = f" annealed from {recipe.mixture_beta:g}" if recipe.mixture_beta < 1.0 else ""
        seen = " of all encoders" if recipe.views > 1 else ""
        seen += f" and of {recipe.copies} distorted copies" if recipe.copies else ""
        seen += ", one class between them" if seen else ""
        moves = f", then up to {recipe.mixture_moves} splits with merges each" if recipe.mixture_moves else ""
        lines.append(
            f"mixture on the codes{seen}: EM, {recipe.mixture_restarts} starts ({recipe.clusters}), "
            f"{recipe.mixture_sweeps} sweeps{annealed}{moves}, the likeliest kept"
        )
        if pretrains(plan, recipe) and settle_epochs(plan, plan.num_rows, recipe):
            lines.append(
                f"few data: {recipe.settle_steps:,} steps of all that is learnt on the bound, every datum's class held"
            )
    elif plan.layout.discrete and plan.globals:
        lines.append(f"{recipe.clusters} start, {FIRST_SWEEPS} closed-form updates of the globals")
    return lines


def pretrains(plan: Plan, recipe: Recipe) -> bool:
    """Whether the networks are trained as an autoencoder first: where a latent has both an encoder and components."""
    return bool(plan.latents and plan.layout.discrete and plan.names(NETWORK) and recipe.pretrain_epochs)


def check_recipe(plan: Plan, recipe: Recipe) -> None:
    """Refuse what a program has no use for.

    Raises:
        ProgramError: for views, copies or moves where no mixture is fitted to codes.
    """
    for option, least in (("views", 1), ("copies", 0), ("mixture_moves", 0)):
        asked = getattr(recipe, option) > least
        if asked and not pretrains(plan, recipe):
            raise ProgramError(
                f"Recipe({option}={getattr(recipe, option)}) is for codes of encoders that are trained first; program "
                f"{plan.program.name} has no latent with an encoder and components, or pretrain_epochs=0: leave it out"
            )


def make_start(
    plan: Plan, data: Data, recipe: Recipe, *, key: Array, watch: Watch = SILENT
) -> tuple[Start, list[Stage]]:
    """Go through the stages once.

    Args:
        plan: the plan.
        data: the data.
        recipe: the recipe.
        key: randomness.
        watch: told of each stage as it goes, and asked how far it came before.

    Returns:
        The start, and what each stage did.
    """
    check_recipe(plan, recipe)
    keys = dict(zip(("draw", "train", "mixture"), jax.random.split(key, 3), strict=True))
    stages: list[Stage] = []
    starts: list[Start] = []
    views = recipe.views if pretrains(plan, recipe) else 1
    for i in range(views):
        # the first view draws as it would alone
        draw_key, train_key = (k if i == 0 else jax.random.fold_in(k, i) for k in (keys["draw"], keys["train"]))
        start = first_values(plan, key=draw_key, from_prior=recipe.clusters == "prior")
        if pretrains(plan, recipe):
            start, stage = pretrain(plan, data, start, recipe, key=train_key, watch=watch.at(f"encoder {i + 1}"))
            stages.append(stage if views == 1 else stage._replace(name=f"{stage.name} {i + 1} of {views}"))
        starts.append(start)
    if plan.globals and recipe.clusters != "prior":
        fit = _fit_mixture_once if pretrains(plan, recipe) else fit_mixture
        start, stage = fit(plan, data, starts, recipe, key=keys["mixture"], watch=watch)
        stages.append(stage)
        if pretrains(plan, recipe) and settle_epochs(plan, data.num_rows, recipe):
            hold_key = jax.random.fold_in(keys["train"], recipe.views)
            start, stage = settle(plan, data, start, recipe, key=hold_key, watch=watch.at("classes held"))
            stages.append(stage)
        return start, stages
    return starts[0], stages


def _fit_mixture_once(
    plan: Plan, data: Data, starts: list[Start], recipe: Recipe, *, key: Array, watch: Watch
) -> tuple[Start, Stage]:
    """The mixture on codes, unless it is there from before."""
    place = watch.at("mixture").place
    reached = watch.recall(place, starts[0].globals)
    if reached is None:
        start, stage = fit_mixture(plan, data, starts, recipe, key=key, watch=watch.at("mixture's starts"))
        reached = Reached(start.globals, 1, stage.objective, stage.seconds, stage.note)
        watch.retain(place, reached, at_once=True)
    stage = Stage(MIXTURE_ON_CODES, reached.seconds, reached.objective, reached.note)
    return Start(reached.values, starts[0].params), stage
