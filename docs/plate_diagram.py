"""A plan as a plate diagram: an SVG of circles, squares and arrows, with chains drawn out over three steps.

Globals and networks stand in the first row, above the box of the data plate; in it every site stands one row under the
lowest of its parents. Nothing here knows a model: sites, parents and roles are the plan's, and which networks a site
uses is what NumPyro finds in the program (`get_model_relations`).
"""

from __future__ import annotations

from collections import defaultdict
from html import escape
from typing import Any, NamedTuple

RADIUS, ACROSS, DOWN, MARGIN = 24, 104, 96, 40
CHAIN_STEPS = ("1", "2", "T")


class Node(NamedTuple):
    """One thing that is drawn: a site, or a site at one step of a chain.

    Attributes:
        site: its name.
        label: what is written in it.
        row: 0 for globals and networks, from 1 on inside of the plate.
        kind: "latent", "observed" or "network".
        step: of a chain, or None.
    """

    site: str
    label: str
    row: int
    kind: str
    step: str | None = None


def diagram(plan: Any) -> str:
    """The SVG of a plan.

    Args:
        plan: a `vmix.plan.Plan`.

    Returns:
        The file's text.
    """
    nodes, edges = graph(plan)
    places = _places(nodes, edges)
    width = max(x for x, _ in places.values()) + MARGIN + RADIUS + 16
    height = max(y for _, y in places.values()) + MARGIN + RADIUS + 16
    inside = [places[node] for node in nodes if node.row]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif" font-size="13">',
        '<defs><marker id="a" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#444"/></marker></defs>',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="white"/>',
        _plate(inside),
    ]
    for tail, head, dashed in edges:
        if not tail.row and head.row > 1 and head.step and not dashed:  # shared by the steps: any of them will do
            head = _in_sight(tail, [node for node in nodes if node.site == head.site], places)
        past = tail.kind == "network" and head.step is not None  # around the states of the chain
        parts.append(_arrow(places[tail], places[head], (-110 if past else 34) if dashed else 0))
    parts += [_shape(node, *places[node]) for node in nodes]
    return "\n".join([*parts, "</svg>"]) + "\n"


def graph(plan: Any) -> tuple[list[Node], list[tuple[Node, Node, bool]]]:
    """Nodes, and edges as (from, to, dashed): dashed are those of the encoder."""
    from numpyro.infer.inspect import get_model_relations

    sites = plan.sites
    of_networks = get_model_relations(plan.program.model, tuple(plan.template))["sample_param"]
    parents = {name: [*site.parents, *of_networks.get(name, ())] for name, site in sites.items()}
    chains = {name for name, site in sites.items() if site.num_steps or site.family == "MarkovChain"}
    nodes, by_site, rows = [], defaultdict(list), {}
    for name, site in sites.items():  # program order: parents come first
        rows[name] = 1 + max((rows.get(p, 0) for p in parents[name]), default=0) if site.is_local else 0
        kind = {"network": "network", "observed": "observed"}.get(site.role, "latent")
        for step in CHAIN_STEPS if chains and site.is_local else (None,):
            node = Node(name, name.removesuffix("$params"), rows[name], kind, step)
            nodes.append(node)
            by_site[name].append(node)
    edges = []
    for name in sites:
        for parent in parents[name]:
            pairs = _joined(by_site[parent], by_site[name], parent)
            edges += [(tail, head, False) for tail, head in pairs]
        if name in chains:
            edges += [(a, b, False) for a, b in zip(by_site[name], by_site[name][1:], strict=False)]
    guided = [name for name in plan.names("network") if not any(name in of for of in of_networks.values())]
    return nodes, edges + _encoding(plan, guided, by_site)


def _joined(tails: list[Node], heads: list[Node], parent: str) -> list[tuple[Node, Node]]:
    """Edges between two sites: step by step where both have steps; what steps share leads to one of them."""
    if len(tails) == len(heads):
        return list(zip(tails, heads, strict=True))
    return [(tails[0], heads[0] if parent == "initial" else heads[1])]


def _encoding(plan: Any, networks: list[str], by_site: dict[str, list[Node]]) -> list[tuple[Node, Node, bool]]:
    """The encoder's edges: from what is observed to the latents that it infers, and from its network."""
    latents = [name for name, site in plan.sites.items() if site.has_encoder]
    if not latents:
        return []
    seen = next(name for name, site in plan.sites.items() if site.role == "observed")
    edges = []
    for latent in latents:
        edges += [(x, z, True) for x, z in zip(by_site[seen], by_site[latent], strict=True)]
        edges += [(by_site[network][0], by_site[latent][-1], True) for network in networks]
    return edges


def _places(nodes: list[Node], edges: list[tuple[Node, Node, bool]]) -> dict[Node, tuple[float, float]]:
    """Where each node stands.

    A local node stands below the middle of its parents, so that edges do not pass through the nodes of another row; the
    steps of a chain stand side by side, what hangs on a state half a column to the right of it.
    """
    shared = [node for node in nodes if not node.row]
    columns = {node: float(i) for i, node in enumerate(shared)}
    local = [node for node in nodes if node.row and node.step in (None, CHAIN_STEPS[0])]
    stepped = any(node.step for node in nodes)
    alone = [node for node in local if not any(head == node and not dashed for _, head, dashed in edges)]
    for row in range(1, 1 + max(node.row for node in local)):
        wanted = {}
        for node in (node for node in local if node.row == row):
            above = [columns[t] for t, h, dashed in edges if h == node and not dashed and not (stepped and not t.row)]
            if stepped:
                wanted[node] = sum(above) / len(above) + (0.5 if row == 2 else 0.0) if above else 0.0
            else:
                wanted[node] = sum(above) / len(above) if above else float(alone.index(node) - len(alone))
        last = -100.0
        for node in sorted(wanted, key=wanted.__getitem__):
            last = columns[node] = max(wanted[node], last + 1)
    if stepped:
        widest = 1.6 + max(columns[n] for n in local) - min(columns[n] for n in local)
        first = (len(shared) - 1) / 2 - widest
        base = {node.site: columns[node] for node in local}
        columns |= {n: first + base[n.site] + CHAIN_STEPS.index(n.step) * widest for n in nodes if n.step}
    left = min(columns.values())
    return {n: (MARGIN + RADIUS + 16 + (columns[n] - left) * ACROSS, MARGIN + RADIUS + n.row * DOWN) for n in nodes}


def _plate(inside: list[tuple[float, float]]) -> str:
    left, right = (round(x) for x in (min(x for x, _ in inside) - RADIUS - 18, max(x for x, _ in inside) + RADIUS + 18))
    top, bottom = (round(y) for y in (min(y for _, y in inside) - RADIUS - 14, max(y for _, y in inside) + RADIUS + 30))
    size = f'width="{right - left}" height="{bottom - top}"'
    box = f'<rect x="{left}" y="{top}" {size} rx="8" fill="none" stroke="#444"/>'
    return f'{box}<text x="{right - 8}" y="{bottom - 8}" text-anchor="end" fill="#444">n = 1, ..., N</text>'


def _in_sight(tail: Node, heads: list[Node], places: dict[Node, tuple[float, float]]) -> Node:
    """The nearest of some nodes to which a straight arrow passes no other node; the clearest where there is none."""
    x0, y0 = places[tail]

    def clearance(head: Node) -> float:
        dx, dy = places[head][0] - x0, places[head][1] - y0
        square, gaps = dx * dx + dy * dy, []
        for x, y in (place for node, place in places.items() if node not in (tail, head)):
            along = min(max(((x - x0) * dx + (y - y0) * dy) / square, 0.0), 1.0)
            gaps.append(((x - x0 - along * dx) ** 2 + (y - y0 - along * dy) ** 2) ** 0.5)
        return min(gaps)

    free = [head for head in heads if clearance(head) > RADIUS + 10]
    return min(free, key=lambda head: abs(places[head][0] - x0)) if free else max(heads, key=clearance)


def _arrow(tail: tuple[float, float], head: tuple[float, float], bend: float) -> str:
    """An arrow between two shapes: straight, or dashed and bent aside by so many pixels."""
    (x0, y0), (x1, y1) = tail, head
    length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
    ux, uy = (x1 - x0) / length, (y1 - y0) / length
    look = 'stroke="#444" stroke-width="1.3" fill="none" marker-end="url(#a)"'
    if not bend:
        x0, y0, x1, y1 = x0 + RADIUS * ux, y0 + RADIUS * uy, x1 - (RADIUS + 2) * ux, y1 - (RADIUS + 2) * uy
        return f'<path d="M{x0:.0f} {y0:.0f} L{x1:.0f} {y1:.0f}" {look}/>'
    cx, cy = (x0 + x1) / 2 - bend * uy, (y0 + y1) / 2 + bend * ux
    x0, y0 = _towards(x0, y0, cx, cy, RADIUS)
    x1, y1 = _towards(x1, y1, cx, cy, RADIUS + 2)
    return f'<path d="M{x0:.0f} {y0:.0f} Q{cx:.0f} {cy:.0f} {x1:.0f} {y1:.0f}" {look} stroke-dasharray="5 4"/>'


def _towards(x: float, y: float, cx: float, cy: float, distance: float) -> tuple[float, float]:
    """The point so far from (x, y) on the way to (cx, cy)."""
    length = ((cx - x) ** 2 + (cy - y) ** 2) ** 0.5
    return x + distance * (cx - x) / length, y + distance * (cy - y) / length


def _shape(node: Node, x: float, y: float) -> str:
    x, y, half = round(x), round(y), max(RADIUS, 4 * len(node.label) + 5)
    if node.kind == "network":
        body = f'<rect x="{x - half}" y="{y - 16}" width="{2 * half}" height="32" rx="3" fill="#f4f4f4" stroke="#444"/>'
    else:
        look = f'fill="{"#d0d0d0" if node.kind == "observed" else "white"}" stroke="#444" stroke-width="1.5"'
        body = f'<ellipse cx="{x}" cy="{y}" rx="{half}" ry="{RADIUS}" {look}/>'
    step = "" if node.step is None else f'<tspan font-size="9" dy="3">{node.step}</tspan>'
    return f'{body}<text x="{x}" y="{y + 4}" text-anchor="middle">{escape(node.label)}{step}</text>'
