"""The repository manager of cfsfuse: objects, images, OCI. No FUSE, no terminal."""
