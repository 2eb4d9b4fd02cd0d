"""Structured priors as NumPyro distributions."""
