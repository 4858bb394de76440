"""The output folder: its layout, the list of all its images (the work plan), and its parts."""
