"""A repository kept well: collection, checks, repair, copies, sizes, fs-verity."""
