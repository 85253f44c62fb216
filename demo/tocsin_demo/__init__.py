"""The embedded demo of Tocsin."""
