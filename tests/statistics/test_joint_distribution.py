"""Every conditional and every kind of local site leaves the joint distribution as it is (`tests/statistics/joint.py`).

The false-alarm rate is 1e-4 a program, over all of its statistics together.
"""

import pytest

from tests.statistics.joint import limit, scores
from tests.statistics.programs import JOINTS
from vmix.conditionals import _FAMILIES

CHEAP = ("coupled means", "random effects")


def check(name, **sizes):
    found = scores(JOINTS[name].case(), seed=0, **sizes)
    assert max(found.values()) < limit(len(found)), {k: z for k, z in found.items() if z >= limit(len(found))}


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in CHEAP else pytest.mark.slow) for n in JOINTS])
def test_few_sweeps_keep_the_joint_distribution(name):
    check(name, num_chains=256, num_sweeps=10)


@pytest.mark.slow
@pytest.mark.parametrize("name", JOINTS)
def test_many_sweeps_keep_the_joint_distribution(name):
    check(name, num_chains=512, num_sweeps=40)


@pytest.mark.slow
def test_sweeps_over_chunks_of_the_rows_keep_the_joint_distribution():
    check("scalars", num_chains=512, num_sweeps=40, chunks=4)


def test_programs_have_every_conditional_between_them():
    tested = {update for joint in JOINTS.values() for update in joint.updates.values()}
    shapes = [(2,), (2, 2)]
    known = {option.name for options in _FAMILIES.values() for shape in shapes for option in options(shape)}
    kinds = {"Normal (blocks of size" if "blocks" in name else name for name in known}
    assert kinds <= {"Normal (blocks of size" if "blocks" in name else name for name in tested}


def test_a_label_kept_from_the_sweep_before_is_seen():
    """Fresh globals with labels of the sweep before: each has its right marginal, and together they are wrong."""

    def wrong(before, after):
        return after._replace(assignments=before.assignments)

    found = scores(JOINTS["normalised weights"].case(), num_chains=256, num_sweeps=10, seed=0, wrong=wrong)
    assert max(found.values()) > limit(len(found)), found


@pytest.mark.slow
@pytest.mark.parametrize(("name", "site", "factor"), [("scalars", "variance", 1.1), ("bits", "w", 0.95)])
def test_a_draw_that_is_off_by_a_little_is_seen(name, site, factor):
    def wrong(before, after):
        value = after.globals[site]
        off = factor * value if site != "w" else factor * value + (1 - factor) / value.shape[-1]
        return after._replace(globals=after.globals | {site: off})

    found = scores(JOINTS[name].case(), num_chains=512, num_sweeps=40, seed=0, wrong=wrong)
    assert max(found.values()) > limit(len(found)), found
