"""Formats as bytes and values: nothing here opens a file. One module owns each format."""
