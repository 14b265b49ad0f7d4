"""FUSE servers beside the default one, to be asked for with `cfs mount --engine`."""
