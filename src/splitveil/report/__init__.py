"""HTML reports and picture sheets: pictures first, every number with its interval."""
