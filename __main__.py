"""`latentfaces`, or `python -m latentfaces`: the command line."""

import signal


def main() -> None:
    """Runs the command line; Ctrl-C while that is imported ends it as quietly as any other program."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from latentfaces.pipelines import cli

    cli.main()


if __name__ == "__main__":
    main()
