"""Which components run, in what order, on what machines; and the command line."""
