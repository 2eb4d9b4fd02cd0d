"""The zoo: one generative story a file; each model is a frozen dataclass with `model` and, where needed, `guide`.

Example:
    >>> from vmix import models
    >>> "VaDE" in dir(models)
    True
"""

import importlib
from typing import TYPE_CHECKING, Any

if __name__ == "models":
    raise ImportError("the folder models/ is the package vmix.models: write `import vmix.models`, not `import models`")

if TYPE_CHECKING:
    from vmix.models.bernoulli_mixture import BernoulliMixture
    from vmix.models.dirichlet_process_mixture import DirichletProcessMixture
    from vmix.models.gaussian_mixture import GaussianMixture
    from vmix.models.gmvae import GMVAE
    from vmix.models.hmm import HMM
    from vmix.models.hmm_vae import HMMVAE
    from vmix.models.hmm_vae_mlda import HMMVAEMLDA
    from vmix.models.infinite_vade import InfiniteVaDE
    from vmix.models.lda import LDA
    from vmix.models.markov_model import MarkovModel
    from vmix.models.mlda import MLDA
    from vmix.models.vade import VaDE
    from vmix.models.vae import VAE
    from vmix.models.vae_gmm import VAEGMM
    from vmix.models.vae_gmm_mlda import VAEGMMMLDA

_HOMES = {
    "BernoulliMixture": "bernoulli_mixture",
    "DirichletProcessMixture": "dirichlet_process_mixture",
    "GMVAE": "gmvae",
    "GaussianMixture": "gaussian_mixture",
    "HMM": "hmm",
    "HMMVAE": "hmm_vae",
    "HMMVAEMLDA": "hmm_vae_mlda",
    "InfiniteVaDE": "infinite_vade",
    "LDA": "lda",
    "MLDA": "mlda",
    "MarkovModel": "markov_model",
    "VAE": "vae",
    "VAEGMM": "vae_gmm",
    "VAEGMMMLDA": "vae_gmm_mlda",
    "VaDE": "vade",
}

__all__ = [
    "BernoulliMixture",
    "DirichletProcessMixture",
    "GMVAE",
    "GaussianMixture",
    "HMM",
    "HMMVAE",
    "HMMVAEMLDA",
    "InfiniteVaDE",
    "LDA",
    "MLDA",
    "MarkovModel",
    "VAE",
    "VAEGMM",
    "VAEGMMMLDA",
    "VaDE",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vmix.models' has no attribute {name!r}; it has {', '.join(__all__)}")
    try:
        home = importlib.import_module(f"{__name__}.{_HOMES[name]}")
    except AttributeError as error:  # Python would say that there is no such model
        raise ImportError(f"libraries do not fit together: {error}; pip install --upgrade flax numpyro") from error
    value = getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
