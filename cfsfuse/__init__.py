"""The FUSE side of cfsfuse: an image as a file system, and its mount without root."""
