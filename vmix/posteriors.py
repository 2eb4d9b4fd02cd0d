"""What a fit holds of each site."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax

from vmix.suggesting import unknown


@jax.tree_util.register_pytree_with_keys_class
class Posterior(dict[str, Any]):
    """Site to point estimate or draws: a dict, and a pytree, that says which sites there are when asked for another.

    Example:
        >>> Posterior(rate=1.0)["rates"]
        Traceback (most recent call last):
            ...
        KeyError: "there is no site 'rates'; expected one of rate; did you mean 'rate'?"
    """

    def __missing__(self, name: object) -> Any:
        raise KeyError(unknown("site", str(name), self))

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], tuple[str, ...]]:
        """Leaves by site, and the sites: what JAX asks of a pytree."""
        return [(jax.tree_util.DictKey(name), self[name]) for name in sorted(self)], tuple(sorted(self))

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], leaves: Iterable[Any]) -> Posterior:
        """The same sites with other leaves."""
        return cls(zip(names, leaves, strict=True))
