"""OCI images: where they come from, how layers become one tree, how they are stored."""
