"""Attacks on trained models: their scores, suites, and the reasons not to trust them."""
