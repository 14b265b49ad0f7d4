"""Tar archives: header `fields`, `reader`, `stream`, `writer`."""
