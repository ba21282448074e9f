"""Networks cut in two at a named layer."""
