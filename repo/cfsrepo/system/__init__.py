"""What Linux offers and the standard library lacks: system calls, mounts, processes."""
