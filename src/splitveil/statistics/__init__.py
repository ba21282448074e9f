"""Intervals, differences, and corrections for many comparisons."""
