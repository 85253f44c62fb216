"""Measurements of Tocsin, next to a peer or a floor measured in the same run."""
