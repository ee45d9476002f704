"""`python -m latentfaces`: the command line."""

from latentfaces.pipelines.cli import main

main()
