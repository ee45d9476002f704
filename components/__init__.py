"""The steps of the pipeline: check, preprocess, train, evaluate."""
