"""Bounds and estimates of what a wire gives away: one file each, on `bounds.base`."""
