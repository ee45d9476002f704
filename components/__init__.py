"""The steps of the pipeline: check, preprocess, train, evaluate."""

IMAGE = "latentfaces:latest"  # of every step, until the pipeline is built for another one
