"""Defenses of the wire: one file for each, on `base`."""
