"""Composition: modules with programs and engines of their own that share variables and exchange messages.

    images, speech = Observation(x), Observation(counts)
    vae, gmm, mlda = VAE(18), GMM(10), MLDA(10, [200, 200])
    vae.connect(images); gmm.connect(vae); mlda.connect(speech, gmm)
    Network(mlda).fit(rounds=5)                   # or: for _ in range(5): vae.update(); gmm.update(); mlda.update()

Source: Nakamura, Nagai and Taniguchi (2018), SERKET; messages here are cavity messages (DESIGN: a message is a factor).
"""

from vmix.compose.autoencoder import VAE
from vmix.compose.markov import MM
from vmix.compose.mixture import GMM
from vmix.compose.module import GraphError, Module, Observation
from vmix.compose.network import Network
from vmix.compose.program_module import ProgramModule
from vmix.compose.saving import load
from vmix.compose.topics import MLDA

__all__ = ["GMM", "MLDA", "MM", "VAE", "GraphError", "Module", "Network", "Observation", "ProgramModule", "load"]
