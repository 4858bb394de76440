"""What inputs are: files and folders, globs, and lists of images."""
