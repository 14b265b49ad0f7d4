"""What it takes on the host to boot a small Debian and to run tests in it."""
