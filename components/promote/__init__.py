"""The promotion component, which stands above the evaluation: it judges as that does."""
