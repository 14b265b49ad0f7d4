"""The repository on disk: objects, streams, references, pins, locks."""
