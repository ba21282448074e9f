"""Attacks on what crosses the wire: one file for each, on `base`."""
