"""The components of the pipeline: check, preprocess, train, evaluate, promote."""
