"""Where bytes are: local files and object stores, locks, and ranges of bytes."""
