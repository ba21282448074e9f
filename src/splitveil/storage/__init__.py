"""Files and folders: written whole, read back through typed models, claimed by one process at a time."""
