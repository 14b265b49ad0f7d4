"""Where OCI images come from and go to."""
