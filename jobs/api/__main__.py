"""`python -m imagecensus` is the command `imagecensus`."""

from imagecensus.jobs.cli import command

command()
