"""One image: found by name, made, walked, viewed as a file system, read verified, compared."""
