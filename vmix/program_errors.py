"""What goes wrong when a program runs, in words; and whether it runs the same way twice."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

IN_PLACE_OF_SCAN = (
    "for values that follow each other write one site, vmix.distributions.MarkovChain(initial_probs, transition_probs, "
    "num_steps=T), and where nothing is sampled use jax.lax.scan"
)


class ProgramError(ValueError):
    """The program cannot be read or fitted; the message names the site, the reason and the way out."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without its full stop."""
    return str(error).partition("\n")[0].rstrip(".")


def digest(traced: Any) -> str:
    """A hash of what a function computes, as JAX traced it, constants and all."""
    if any(isinstance(c, jax.core.Tracer) for c in traced.consts):
        return "hangs on a value of another run"
    consts = [np.asarray(c).tobytes() for c in traced.consts if not jax.numpy.issubdtype(c.dtype, jax.dtypes.prng_key)]
    text = re.sub(r"0x[0-9a-f]+", "", str(traced.jaxpr))  # addresses of Python functions, other in each trace
    return hashlib.sha256(b"".join([text.encode(), *consts])).hexdigest()[:16]


@contextmanager
def running(name: str, args: tuple) -> Iterator[None]:
    """Say in words what it means when a program cannot be read."""
    shapes = [tuple(a.shape) for a in args]
    try:
        yield
    except ProgramError:
        raise
    except (jax.errors.ConcretizationTypeError, jax.errors.NonConcreteBooleanIndexError) as error:
        raise ProgramError(
            f"{name} takes a Python decision (if, while, int, float, x[mask]) on a latent or data value, which is not "
            "known when the program is read; use jnp.where or jax.lax.cond, or a discrete site"
        ) from error
    except jax.errors.TracerArrayConversionError as error:
        raise ProgramError(
            f"{name} hands a latent or data value to NumPy (np.), which cannot follow it; use jax.numpy (jnp.) inside "
            "a program"
        ) from error
    except jax.errors.UnexpectedTracerError as error:
        raise ProgramError(
            f"{name} keeps a value of one run and uses it in the next (a list or a global that it changes); let it "
            "depend on its arguments alone"
        ) from error
    except AssertionError as error:  # NumPyro asserts that names are unique, among other things
        raise ProgramError(
            f"{name} is not a program that NumPyro can run: {error or 'an assertion failed'}; give every site and "
            "plate a name of its own, and plates the sizes of the data"
        ) from error
    except NotImplementedError as error:
        way = IN_PLACE_OF_SCAN if "control flow" in str(error) else "write it in another way"
        raise ProgramError(f"{name} asks NumPyro for what it cannot do: {first_line(error)}; {way}") from error
    except AttributeError as error:
        if "Tracer" not in str(error):
            raise
        asked = str(error).split("has no attribute")[-1].strip()
        raise ProgramError(
            f"{name} asks an array for {asked!r}, which arrays do not have; it is given {len(args)} array(s) of shapes "
            f"{shapes}, not frames or records: write it for arrays"
        ) from error
    except (TypeError, ValueError) as error:
        way = "correct the program, or give it other data"
        if "broadcast" in str(error):
            way = "where a row is one value of several columns, end its distribution with .to_event(1)"
        raise ProgramError(
            f"{name} could not be run on {len(args)} data array(s) of shapes {shapes}: {first_line(error)}; {way}"
        ) from error


def refuse_partial_observation(samples: dict[str, dict]) -> None:
    """Refuse `obs_mask=`, for which NumPyro splits a site into an observed and an unobserved one.

    The unobserved one has a value for each row, also for those that are observed: there its density is flat.

    Raises:
        ProgramError: naming the site.
    """
    for name, site in samples.items():
        root = name.removesuffix("_unobserved")
        if root == name or f"{root}_observed" not in samples:
            continue
        if not site["discrete"]:
            raise ProgramError(
                f"site {root!r} is observed in part by obs_mask=; leave obs_mask= out and put NaN where a value is "
                'missing: vmix.fit(..., missing="nan"), which sums it out'
            )
        raise ProgramError(
            f"site {root!r} is discrete and observed in part by obs_mask=; drop obs= and obs_mask= there, and pass "
            f"what is known to the fit: vmix.fit(..., observed={{{root!r}: values}}) with -1 where unknown"
        )


def refuse_strangers(guided: dict[str, dict], samples: dict[str, dict], program: str) -> None:
    """Refuse a guide that samples what the program does not, or observes something.

    Raises:
        ProgramError: naming the site.
    """
    hidden = [name for name, site in samples.items() if not site["observed"]]
    for name, site in guided.items():
        if site["type"] == "sample" and site["family"] != "Unit" and (name not in hidden or site["observed"]):
            what = "observes" if site["observed"] else "samples"
            raise ProgramError(
                f"{program}'s guide {what} site {name!r}; expected it to sample latents of the program alone, by their "
                f"names: {hidden}"
            )
