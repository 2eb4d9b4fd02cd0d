"""Tables with names of rows and columns (pandas, Arrow, xarray): what a fit says of their rows, and ArviZ with names.

`vmix.fit` takes such tables as they are. None of the three libraries is needed: what comes in is of one of them.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from vmix.columns import column_names, kind_of
from vmix.program import DISCRETE, GLOBAL, OBSERVED, Site

if TYPE_CHECKING:
    from vmix.results import Fit


def annotate(fit: Fit, table: Any) -> Any:
    """What a fit says of each row of a table, as a table of the same library, with the rows' names.

    Args:
        fit: a fit of rows, of one data array.
        table: a pandas frame, an Arrow table or an xarray array, shape (N, D), with the columns that were fitted.

    Returns:
        Columns `component`, `probability_0`, ... (of fits with components), `latent_0`, ... (of those with an encoder)
        and `score`, nats. A frame has the table's index, and a data set the coordinates of its first dimension.

    Raises:
        TypeError: for arrays without names, and for fits of sequences or of several arrays.

    Example:
        >>> import vmix, xarray
        >>> from vmix.inference import EM
        >>> from vmix.models import GaussianMixture
        >>> x = xarray.DataArray(np.eye(9)[:, :2], dims=("day", "place"), coords={"day": list("abcdefghi")})
        >>> fit = vmix.fit(GaussianMixture(num_components=2), x, engine=EM(tolerance=None, num_sweeps=5), seed=0)
        >>> annotate(fit, x).sel(day="c").component.dtype.kind
        'i'
    """
    kind = kind_of(table)
    if kind is None:
        raise TypeError(
            f"table is {type(table).__name__}; expected a pandas frame, an Arrow table or an xarray array: of an array "
            "fit.predict and fit.predict_proba tell the same"
        )
    if len(fit._plan.template) > 1 or fit.sequence_dims is not None:
        raise TypeError(f"{fit.model_name} was fitted to sequences or to several arrays, which are no single table")
    found = _columns(fit, table)
    if kind == "pyarrow":
        return sys.modules["pyarrow"].table(found)
    if kind == "pandas":
        return sys.modules["pandas"].DataFrame(found, index=table.index)
    rows = table.dims[0]
    coords = {name: values for name, values in table.coords.items() if set(values.dims) <= {rows}}
    return sys.modules["xarray"].Dataset({name: (rows, values) for name, values in found.items()}, coords=coords)


def _columns(fit: Fit, table: Any) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    if fit.num_components is not None:
        probs = fit.predict_proba(table)
        found["component"] = probs.argmax(1)
        found |= {f"probability_{k}": probs[:, k] for k in range(probs.shape[1])}
    if fit.has_latent:
        codes = fit.transform(table)
        found |= {f"latent_{d}": codes[:, d] for d in range(codes.shape[1])}
    return found | {"score": fit.score_samples(table)}


def to_arviz(fit: Fit, columns: Any = None) -> Any:
    """See `Fit.to_arviz`."""
    import arviz_base

    sites, chains = fit._plan.sites, int(fit.settings["engine"].get("num_chains", 1))
    sampled = fit.engine_name == "Gibbs"
    posterior = {
        n: v if sampled and chains > 1 else v[None] if sampled else v[None, None] for n, v in fit.posterior.items()
    }
    names = None if columns is None else column_names(columns)
    dims = {name: _dims(fit, sites[name]) for name in posterior if name in sites}
    coords: dict[str, Any] = {}
    for name, labels in dims.items():
        for label, size in zip(labels, posterior[name].shape[2:], strict=True):
            base = label.removesuffix("_again")
            named = names is not None and base == "feature" and len(names) == size
            coords[label] = names if named else np.arange(size)
    if names is not None and "feature" in coords and coords["feature"] is not names:
        sizes = len(coords["feature"])
        raise ValueError(f"columns has {len(names)} names; the data have {sizes} columns: give one for each")
    groups = {"posterior": posterior} | ({"sample_stats": _statistics(fit, posterior)} if sampled else {})
    return arviz_base.from_dict(groups, dims=dims, coords=coords)


def _dims(fit: Fit, site: Site) -> list[str]:
    """A name for each dimension of a site: row, component, feature or latent, else the plate's that it stands in.

    A plate of another name than components is called by it whatever its size. The second of a kind has `_again`.
    """
    plan = fit._plan
    children = [plan.sites[child] for child in site.children]
    widths = {c.shape[-1]: "feature" for c in children if c.role == OBSERVED and c.shape}
    widths |= {c.shape[-1]: "latent" for c in children if c.role not in (OBSERVED, DISCRETE, GLOBAL) and c.shape}
    followed = any(child.num_steps for child in children)
    plates = {len(site.batch_shape) + plate.dim: plate.name for plate in site.plates}
    found: list[str] = []
    for place, size in enumerate(site.shape):
        if place == 0 and site.is_local:
            name = "row"
        elif not plates.get(place, "component").startswith("component"):
            name = plates[place]
        elif size == fit.num_components and ("component" not in found or followed):
            name = "component"
        else:
            name = widths.get(size, plates.get(place, f"{site.name}_dim_{place}"))
        found.append(f"{name}_again" if name in found else name)
    return found


def _statistics(fit: Fit, posterior: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The objective and the acceptance rates at each draw that was kept, shape (chains, draws)."""
    chains, draws = next(iter(posterior.values())).shape[:2]
    traces = {name: np.atleast_2d(v) for name, v in fit.history.items() if isinstance(v, np.ndarray)}
    return {
        n: v[:chains, -draws:] for n, v in traces.items() if v.ndim == 2 and len(v) >= chains and v.shape[1] >= draws
    }
