"""Experiments that are not settings: variants of a run, soups of models, and the log README.md."""
