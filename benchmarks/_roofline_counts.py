"""Operations and bytes of the hot loops, counted by hand from their shapes; float32, 4 bytes a number.

N rows, D columns, K components, P statistics a row. An operation is an addition, a multiplication, or one elementary
function. Bytes are the traffic to memory of arrays too large for the caches, each once for every pass over it.

**Mixtures.** x and x^2 (diagonal, P = 2 D), or x and x_i x_j for i <= j (full, P = D + D (D + 1) / 2), kept from the
start. Likelihoods T eta' are 2 N P K operations and sums R' T as many; responsibilities take 5 N K (largest,
difference, exp, sum, quotient). T passes twice, the N K likelihoods and responsibilities are each written and read:
8 N P + 16 N K bytes.

**HMM.** M = N T steps. The same products over the M steps; then forwards and backwards, each a product with the
transition matrix (2 K^2) and 3 K for evidence and scale; pairs of states, 2 K^2; responsibilities and exp, 4 K. So
4 M P K + M (6 K^2 + 10 K) operations. Statistics pass twice, evidence is written and read twice, predictions of both
directions and responsibilities are written and read: 8 M P + 36 M K bytes.

**LDA.** Documents by words, dense. Mixtures theta phi, then tokens by document and by topic, 2 N K V each; a quotient
and a logarithm an entry, and their product and sum: 6 N K V + 4 N V. Counts pass twice; mixtures are written and read,
quotients are written and read twice: 28 N V bytes.

**VaDE, a step.** W weights, B rows of D columns. Forwards 2 B W, backwards 4 B W less the
gradient of the images, 2 B D h_1; ten operations a pixel; Adam and clipping 14 W. Weights are read forwards and
backwards, gradients written and read twice, Adam reads and writes weights and two moments: 4 (2 + 3 + 6) W bytes, and
8 for every activation and pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Count(NamedTuple):
    """Work of one sweep or step: operations, and bytes to and from memory."""

    flops: float
    bytes: float


def mixture(*, covariance: str, num_data: int, data_dim: int, num_components: int) -> Count:
    """A sweep of EM."""
    n, k, p = num_data, num_components, _statistics(covariance, data_dim)
    return Count(4.0 * n * p * k + 5.0 * n * k, 8.0 * n * p + 16.0 * n * k)


def hmm(*, covariance: str, num_sequences: int, num_steps: int, data_dim: int, num_components: int) -> Count:
    """A sweep of EM."""
    m, k, p = num_sequences * num_steps, num_components, _statistics(covariance, data_dim)
    return Count(4.0 * m * p * k + m * (6.0 * k**2 + 10.0 * k), 8.0 * m * p + 36.0 * m * k)


def lda(*, num_documents: int, num_words: int, num_components: int) -> Count:
    """A sweep of EM."""
    entries = float(num_documents * num_words)
    return Count(entries * (6.0 * num_components + 4.0), 28.0 * entries)


def vade(*, num_data: int, data_dim: int, hidden: Sequence[int], latent_dim: int, batch_size: int) -> Count:
    """A training step; the number of rows does not count."""
    del num_data
    widths = [data_dim, *hidden]
    down = [*zip(widths[:-1], widths[1:], strict=True), (widths[-1], 2 * latent_dim)]
    up = [(latent_dim, widths[-1]), *((b, a) for a, b in zip(widths[:-1], widths[1:], strict=True))]
    weights = float(sum(a * b + b for a, b in [*down, *up]))
    products = float(sum(a * b for a, b in [*down, *up]))
    rows = float(batch_size)
    flops = 6.0 * rows * products - 2.0 * rows * data_dim * widths[1] + 10.0 * rows * data_dim + 14.0 * weights
    activations = rows * sum(2 * width for width in widths)
    return Count(flops, 44.0 * weights + 8.0 * activations)


def _statistics(covariance: str, data_dim: int) -> int:
    return 2 * data_dim if covariance == "diagonal" else data_dim + data_dim * (data_dim + 1) // 2


COUNTS: dict[str, Callable[..., Count]] = {f.__name__: f for f in (mixture, hmm, lda, vade)}


def section(lines: list[dict[str, Any]]) -> list[str]:
    """The section of RESULTS.md: a row a loop."""
    names = ("GFLOP", "MB", "GFLOP/s", "GB/s", "limit", "at the limit, ms", "measured, ms", "fraction")
    rows = ["| loop | " + " | ".join(names) + " | GFLOP by XLA |", "|---|---:|---:|---:|---:|---|---:|---:|---:|---:|"]
    for line in lines:
        found = line["metrics"]
        limit = "arithmetic" if found["is_arithmetic"] else "memory"
        cells = [line["case"], f"{found['flops'] / 1e9:.3g}", f"{found['bytes'] / 1e6:.3g}"]
        cells += [f"{found['machine_flops'] / 1e9:.0f}", f"{found['machine_bytes'] / 1e9:.1f}", limit]
        cells += [f"{1e3 * found['seconds_limit']:.3g}", f"{1e3 * found['seconds_per_iteration_fastest']:.3g}"]
        by_xla = f"{found['flops_by_xla'] / 1e9:.3g}" if "flops_by_xla" in found else ""
        rows.append("| " + " | ".join([*cells, f"{found['fraction']:.2f}", by_xla]) + " |")
    return [*rows, ""]
