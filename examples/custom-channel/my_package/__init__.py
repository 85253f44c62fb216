"""A channel and a source for Tocsin."""
