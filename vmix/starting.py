"""Where a fit begins: named stages that every engine shares.

A mixture starts from a clustering of its data; a deep mixture from an autoencoder, and a mixture fitted on its codes.
Every stage reads the plan, so a program of the user's own gets the same start as a model of the zoo.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import jax
from jax import Array

from vmix.door import prepare
from vmix.engine import Data, Start
from vmix.mixture_start import FIRST_SWEEPS, MIXTURE_ON_CODES, components_of_classes, fit_mixture
from vmix.plan import Plan, make_plan
from vmix.pretraining import first_values, pretrain
from vmix.program import NETWORK, Program, ProgramError, as_program
from vmix.recipe import SILENT, Reached, Recipe, Stage, Watch
from vmix.settling import settle, settle_epochs


def recipe_of(plan: Plan, choice: Recipe | str | None) -> Recipe:
    """The recipe asked for, or that of the program with the clustering of this name, or the program's own."""
    own = getattr(plan.program.source, "recipe", None)
    recipe = own if isinstance(own, Recipe) else Recipe()
    if isinstance(choice, Recipe):
        recipe = choice
    elif choice is not None:
        recipe = replace(recipe, clusters=choice)
    if recipe.viewer is None:
        return recipe
    try:
        return replace(recipe, viewer=as_program(recipe.viewer))  # one program for all restarts
    except TypeError as error:
        raise TypeError(f"Recipe(viewer=...): {error}") from None


def describe(plan: Plan, recipe: Recipe) -> list[str]:
    """The stages that a start will go through, one line each."""
    trained = pretrains(plan, recipe)
    if _has_viewer(recipe) and trained:
        name = as_program(recipe.viewer).name
        lines = [f"viewer ({name}): {line}" for line in describe(plan, _of_viewer(recipe))]
        lines += [_describe_training(recipe, 1), "components of the viewer's classes on the codes"]
    else:
        lines = [_describe_training(recipe, recipe.views)] if trained else []
        if plan.latents and plan.layout.discrete and plan.globals:
            lines.append(_describe_mixture(recipe))
        elif plan.layout.discrete and plan.globals:
            lines.append(f"{recipe.clusters} start, {FIRST_SWEEPS} closed-form updates of the globals")
    if trained and plan.globals and settle_epochs(plan, plan.num_rows, recipe):
        lines.append(
            f"few data: {recipe.settle_steps:,} steps of all that is learnt on the bound, every datum's class held"
        )
    return lines


def _describe_training(recipe: Recipe, views: int) -> str:
    kind = f"denoising autoencoder ({recipe.noise:.0%} of inputs dropped)" if recipe.noise else "autoencoder"
    shape = f", images distorted ({recipe.distort:g})" if recipe.distort else ""
    count = f"{views} encoders: " if views > 1 else ""
    return f"{count}{kind}{shape}, {recipe.pretrain_epochs} epochs or more, on the program's own networks"


def _describe_mixture(recipe: Recipe) -> str:
    annealed = f" annealed from {recipe.mixture_beta:g}" if recipe.mixture_beta < 1.0 else ""
    seen = " of all encoders" if recipe.views > 1 else ""
    seen += f" and of {recipe.copies} distorted copies" if recipe.copies else ""
    seen += ", one class between them" if seen else ""
    moves = f", then up to {recipe.mixture_moves} splits with merges each" if recipe.mixture_moves else ""
    return (
        f"mixture on the codes{seen}: EM, {recipe.mixture_restarts} starts ({recipe.clusters}), "
        f"{recipe.mixture_sweeps} sweeps{annealed}{moves}, the likeliest kept"
    )


def pretrains(plan: Plan, recipe: Recipe) -> bool:
    """Whether the networks are trained as an autoencoder first: where a latent has both an encoder and components."""
    return bool(plan.latents and plan.layout.discrete and plan.names(NETWORK) and recipe.pretrain_epochs)


def check_recipe(plan: Plan, recipe: Recipe) -> None:
    """Refuse what a program has no use for.

    Raises:
        ProgramError: for views, a viewer, copies or moves where no mixture is fitted to codes.
    """
    for option, usual in (("views", 1), ("viewer", None), ("copies", 0), ("mixture_moves", 0)):
        asked = getattr(recipe, option)
        if asked != usual and not pretrains(plan, recipe):
            shown = as_program(asked).name if option == "viewer" else asked
            raise ProgramError(
                f"Recipe({option}={shown}) is for codes of encoders that are trained first; program "
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
    if _has_viewer(recipe):
        return _start_from_viewer(plan, data, recipe, key=key, watch=watch)
    keys = _keys(key)
    stages: list[Stage] = []
    starts: list[Start] = []
    views = recipe.views if pretrains(plan, recipe) and recipe.clusters != "prior" else 1
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
        start, settled = _settled(plan, data, start, recipe, key=keys["train"], watch=watch)
        return start, [*stages, stage, *settled]
    return starts[0], stages


def _keys(key: Array) -> dict[str, Array]:
    return dict(zip(("draw", "train", "mixture"), jax.random.split(key, 3), strict=True))


def _start_from_viewer(
    plan: Plan, data: Data, recipe: Recipe, *, key: Array, watch: Watch
) -> tuple[Start, list[Stage]]:
    """The viewer's start, an encoder of the program's own, and components of the viewer's classes on its codes."""
    keys = _keys(key)
    looking = _plan_of_viewer(plan, as_program(recipe.viewer))
    look_key = jax.random.fold_in(key, 1)
    seen, stages = make_start(looking, data, _of_viewer(recipe), key=look_key, watch=watch.at("viewer"))
    stages = [stage._replace(name=f"viewer: {stage.name}") for stage in stages]
    own = first_values(plan, key=keys["draw"], from_prior=False)
    own, stage = pretrain(plan, data, own, recipe, key=keys["train"], watch=watch.at("encoder 1"))
    stages.append(stage)
    start, stage = components_of_classes(plan, data, own, looking, seen, recipe, key=keys["mixture"])
    start, settled = _settled(plan, data, start, recipe, key=keys["train"], watch=watch)
    return start, [*stages, stage, *settled]


def _has_viewer(recipe: Recipe) -> bool:
    """Whether another program finds the classes; globals drawn from their prior need none."""
    return recipe.viewer is not None and recipe.clusters != "prior"


def _of_viewer(recipe: Recipe) -> Recipe:
    """What the viewer goes through: its networks are not trained further."""
    return replace(recipe, viewer=None, settle_steps=0)


@lru_cache(maxsize=4)
def _plan_of_viewer(plan: Plan, viewer: Program) -> Plan:
    """The plan of a viewer, from the rows that the program's own plan keeps.

    Raises:
        ProgramError: if its classes are others than the program's.
    """
    looking = make_plan(prepare(viewer, plan.template), plan.template, key=jax.random.key(0), missing=plan.missing)
    if looking.layout.discrete != plan.layout.discrete:
        raise ProgramError(
            f"Recipe(viewer=...) has the discrete sites {looking.layout.discrete}, program {plan.program.name} has "
            f"{plan.layout.discrete}: give a viewer with the same ones, such as the same record with another latent_dim"
        )
    return replace(looking, num_rows=plan.num_rows)


def _settled(
    plan: Plan, data: Data, start: Start, recipe: Recipe, *, key: Array, watch: Watch
) -> tuple[Start, list[Stage]]:
    """The start with its classes held for a while, where the data are few."""
    if not (pretrains(plan, recipe) and settle_epochs(plan, data.num_rows, recipe)):
        return start, []
    hold_key = jax.random.fold_in(key, recipe.views)
    start, stage = settle(plan, data, start, recipe, key=hold_key, watch=watch.at("classes held"))
    return start, [stage]


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
