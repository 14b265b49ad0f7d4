"""Man pages and shell completions, made from the table of commands.

`build.write` writes them while the package is built; `python -m cfstools.manual DIRECTORY` does so
by hand. Like `cfstools.options` this imports the standard library only.
"""
