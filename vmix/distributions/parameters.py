"""What structured distributions share at the door: rows that must be probabilities, masks, and one axis for a batch."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def broadcast(name: str, shape: tuple[int, ...], other: str, onto: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of both.

    Raises:
        ValueError: They do not broadcast; the message names them.
    """
    try:
        return jnp.broadcast_shapes(shape, onto)
    except ValueError:
        raise ValueError(f"{name} is {shape} and does not broadcast with {other} batch {onto}") from None


def inward(array: jax.Array, batch: tuple[int, ...], num_tail: int) -> jax.Array:
    """Bring `(*batch, T)` to `(T, B)`, or with a tail of two `(*batch, T, K)` to `(T, K, B)`."""
    tail = array.shape[array.ndim - num_tail :]
    return jnp.moveaxis(jnp.broadcast_to(array, batch + tail).reshape(math.prod(batch), *tail), 0, -1)


def outward(array: jax.Array, batch: tuple[int, ...]) -> jax.Array:
    """Undo `inward`."""
    return jnp.moveaxis(array, -1, 0).reshape(batch + array.shape[:-1])


def check_num_steps(num_steps: object, name: str) -> None:
    """Refuse what is no number of steps.

    Raises:
        TypeError: for no whole number.
        ValueError: for less than one.
    """
    if not isinstance(num_steps, int | np.integer):
        raise TypeError(f"num_steps is {num_steps!r}; expected a whole number such as x.shape[1]")
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; {name} has at least one step")


def check_mask_shape(mask: jax.Array | None, num_steps: int) -> None:
    """Refuse a mask that is not `(*batch, T)` Booleans."""
    if mask is not None and (mask.dtype != bool or mask.shape[-1:] != (num_steps,)):
        raise ValueError(
            f"mask has shape {mask.shape} and type {mask.dtype}; it needs (*batch, "
            f"{num_steps}) and bool, True where a step exists: jnp.arange(num_steps) < lengths[..., None]"
        )


def check_mask_values(mask: jax.Array | None) -> None:
    """Refuse a mask with a gap, as far as it is concrete."""
    if mask is None or isinstance(mask, jax.core.Tracer):
        return
    if np.any(np.diff(np.asarray(mask).astype(np.int8), axis=-1) > 0):
        raise ValueError(
            "mask has a gap: a step exists after one that does not; mask sequences at their end only, and give a "
            "step without evidence a row of zeros in `unary`"
        )


def check_rows(name: str, probs: jax.Array, *, strict: bool) -> None:
    """Refuse rows that are no probabilities, as far as they are concrete; `strict` refuses values that are not."""
    if isinstance(probs, jax.core.Tracer):
        if strict:
            raise RuntimeError(f"{name} is traced by jit; its values cannot be checked")
        return
    rows = np.asarray(probs, np.float64)
    # rounding of the row and of its normalisation
    tolerance = 8 * math.sqrt(rows.shape[-1]) * float(jnp.finfo(probs.dtype).eps) + 1e-6
    error = np.abs(rows.sum(-1) - 1).max(initial=0)
    if not error <= tolerance or rows.min(initial=0) < 0:
        raise ValueError(
            f"{name} has a row that is no distribution: smallest entry {rows.min(initial=0):.3g}, sum off by "
            f"{error:.3g}; divide by probs.sum(-1, keepdims=True)"
        )
