"""Training of split models: the loop, its state, and the trainer of a run folder."""
