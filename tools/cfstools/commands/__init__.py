"""One module a subcommand of `cfs`; see `cfstools.cli.COMMANDS`."""
