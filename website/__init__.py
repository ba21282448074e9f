"""The documentation site: pages that are written, and pages that are made from code and records at every build."""
