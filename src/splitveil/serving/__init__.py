"""Serving: the cloud part of a bundle behind the Open Inference Protocol. Nothing here imports torch."""
