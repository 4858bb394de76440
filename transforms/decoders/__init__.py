"""The processes that decode images and open archives: what kills one costs its own row."""
