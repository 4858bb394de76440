"""Labelled images from anywhere a table or an archive can be, for `imagecensus train`."""
