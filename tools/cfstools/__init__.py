"""The `cfs` command."""
