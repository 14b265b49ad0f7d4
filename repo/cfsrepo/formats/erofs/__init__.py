"""EROFS images of the composefs kind: `layout` (the bytes), `writer`, `reader`."""
