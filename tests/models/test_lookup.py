"""Models are looked up by name, and libraries that do not fit together are told where one is."""

import importlib

import pytest

from vmix import models


def test_libraries_that_do_not_fit_are_told(monkeypatch):
    def broken(name):
        raise AttributeError("module 'jax.experimental.hijax' has no attribute 'HiPrimitive'")

    monkeypatch.delitem(vars(models), "VaDE", raising=False)
    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ImportError, match="libraries do not fit together: .*HiPrimitive.*; pip install --upgrade flax"):
        models.VaDE  # noqa: B018


def test_unknown_model_is_refused_with_those_there_are():
    with pytest.raises(AttributeError, match="no attribute 'Vade'; it has .*VaDE"):
        models.Vade  # noqa: B018
