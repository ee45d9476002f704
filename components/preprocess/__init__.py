"""The preprocessing component."""
