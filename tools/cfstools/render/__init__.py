"""What `cfs` prints: progress, tables, amounts, ages, JSON. Programs read the last one only."""
