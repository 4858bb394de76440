"""Packed archives: which members they hold, and the bytes of one member."""
