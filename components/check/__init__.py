"""The check that comes before any long work."""
