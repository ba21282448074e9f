"""Noise for networks that are already trained: `waterfill` put on a model, as strong as a loss of accuracy allows."""
