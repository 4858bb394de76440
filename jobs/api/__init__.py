"""Classify millions of archived images: one label per image, in a Parquet table."""
