"""Where the workers of a grid run: processes, Slurm jobs or Ray tasks."""
