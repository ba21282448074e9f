"""Records of finished runs: read, compared and tabulated."""
