"""SVI against EM: with point estimates of the globals both climb the same objective."""

import numpy as np
import pytest

from tests.oracles import fitted

SHARED = [
    "two modalities",
    pytest.param("HalfNormal scales", marks=pytest.mark.slow),
    pytest.param("latent classes", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("name", SHARED)
def test_map_from_the_same_start_is_em_s_optimum(name):
    em, svi = fitted(name, "EM"), fitted(name, "SVI")
    assert svi.fit.history["objective"][0] == pytest.approx(em.fit.history["objective"][0], abs=1e-3)
    assert svi.fit.history["objective"][-1] == pytest.approx(em.fit.history["objective"][-1], abs=0.01)
    for site, value in em.point.items():
        np.testing.assert_allclose(svi.point[site], value, rtol=0.02, atol=0.02, err_msg=site)


@pytest.mark.parametrize("name", SHARED)
def test_svi_step_compiles_once(name):
    assert fitted(name, "SVI").traces == 1


def test_responsibilities_agree_with_em_s():
    em, svi = fitted("two modalities", "EM"), fitted("two modalities", "SVI")
    data = em.case.data
    np.testing.assert_allclose(svi.fit.predict_proba(*data), em.fit.predict_proba(*data), atol=0.02)
