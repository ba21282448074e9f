"""Grids of runs on one machine, Slurm or Ray, and the records that they leave."""
