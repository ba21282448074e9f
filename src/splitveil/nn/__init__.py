"""Faster layers for processors that need them."""
