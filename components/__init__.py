"""The steps of the pipeline: preprocess, train, evaluate."""
