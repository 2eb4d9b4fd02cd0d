"""Reading a program's layout off its sites, and refusing what cannot be laid out or enumerated, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from vmix.layout import Layout
from vmix.program import (
    DISCRETE,
    FACTOR,
    GLOBAL_FACTOR,
    LATENT,
    NETWORK,
    OBSERVED,
    Plate,
    ProgramError,
    Site,
    find_data_plate,
)
from vmix.program_errors import first_line

MAX_STATES = 4096
_OBSERVED = (OBSERVED, FACTOR, GLOBAL_FACTOR)


def read_layout(sites: Mapping[str, Site], args: tuple) -> Layout:
    """Where the dimensions of a program's batch shapes stand.

    Args:
        sites: the sites, in program order.
        args: the data arrays, each with N rows.

    Returns:
        The layout.

    Raises:
        ProgramError: for data outside of a plate, a data plate of another size, discrete sites in several plates or
            with too many joint values, and structured sites that cannot be summed out.
    """
    plates = [plate for site in sites.values() for plate in site.plates]
    nesting = max([-plate.dim for plate in plates], default=0)
    nesting = max([nesting, *(len(site.batch_shape) for site in sites.values())])
    local = [site for site in sites.values() if site.role in (DISCRETE, LATENT)]
    plate = _data_plate(sites, args[0].shape[0])
    data_dim = None if plate is None else plate.dim
    found = [site for site in local if site.role == DISCRETE]
    discrete = tuple((site.name, site.num_values) for site in found if site.num_values is not None)
    layout = Layout(data_dim, nesting, discrete, _num_steps(sites, discrete, data_dim))
    for site in found:
        if len([p for p in site.plates if p.size > 1]) > 1:
            names = [plate.name for plate in site.plates]
            raise ProgramError(
                f"discrete site {site.name!r} stands in several plates {names}; vmix sums out one value per datum: "
                "make each datum a row of its own, or write counts with a Multinomial"
            )
    if layout.num_states > MAX_STATES:
        raise ProgramError(
            f"the discrete sites {[name for name, _ in discrete]} have {layout.num_states} joint values, at most "
            f"{MAX_STATES} are enumerated; use fewer values, or one site"
        )
    return layout


def _num_steps(sites: Mapping[str, Site], discrete: tuple, data_dim: int | None) -> int | None:
    """The steps of the structured discrete site; None without one."""
    structured = [sites[name] for name, _ in discrete if sites[name].num_steps is not None]
    if not structured:
        return None
    site = structured[0]
    if len(discrete) > 1:
        raise ProgramError(
            f"site {site.name!r} ({site.family}) is structured, and there are other discrete sites beside it "
            f"({[name for name, _ in discrete if name != site.name]}); one structured site alone can be summed out: "
            "join the variables into one with the product of their values"
        )
    if data_dim != -1:
        raise ProgramError(
            f"site {site.name!r} ({site.family}) needs the data plate as the last plate (dim=-1); found dim={data_dim}"
        )
    return site.num_steps


def _data_plate(sites: Mapping[str, Site], num_rows: int) -> Plate | None:
    raw = {
        name: {
            "observed": s.role in _OBSERVED,
            "plates": s.plates,
            "num_values": s.num_values,
            "family": s.family,
            "shape": s.shape,
            "event_dim": s.event_dim,
        }
        for name, s in sites.items()
        if s.role != NETWORK
    }
    plate = find_data_plate(raw, num_rows=num_rows)
    if plate is None:
        _refuse_no_plate(sites)
    elif plate.size != num_rows:
        raise ProgramError(
            f"plate {plate.name!r} of the observed sites has size {plate.size}, but the data have {num_rows} rows; "
            f'expected one for each: numpyro.plate("{plate.name}", x.shape[0])'
        )
    return plate


def _refuse_no_plate(sites: Mapping[str, Site]) -> None:
    """Refuse data that stand side by side outside of any plate."""
    for site in sites.values():
        if site.role == OBSERVED and len(site.shape) > site.event_dim and not site.plates:
            raise ProgramError(
                f"site {site.name!r} observes data of shape {site.shape} outside of any plate; expected one plate over "
                'the rows: write it under `with numpyro.plate("data", x.shape[0]):`'
            )


def refuse_coupled(site: Site, layout: Layout) -> None:
    """Refuse a site that hangs on a discrete one, but not datum by datum.

    Raises:
        ProgramError: naming both.
    """
    discrete = [name for name, _ in layout.discrete if name in site.parents]
    if discrete and site.role != DISCRETE:
        raise ProgramError(
            f"site {site.name!r} depends on {discrete[0]!r} of other rows too, as through a sum or a mean over the "
            f"data plate; expected each row to depend on its own value alone: index with it, as loc[{discrete[0]}]"
        )


@contextmanager
def enumerating(name: str, layout: Layout) -> Iterator[None]:
    """Tell what it means when a program cannot run with all values of its discrete sites at once."""
    try:
        yield
    except ProgramError:
        raise
    except (TypeError, ValueError) as error:
        discrete = ", ".join(repr(site) for site, _ in layout.discrete)
        if not discrete:
            raise
        raise ProgramError(
            f"{name} cannot be run with every value of {discrete} at once ({first_line(error)}); expected each row to "
            "depend on its own value alone, by indexing (loc[c]) and arithmetic that broadcasts: no reshape, cumsum or "
            "concatenation along the data plate"
        ) from error
