"""Bare-user trees: images as ordinary directories that an ordinary user edits."""
