"""The parts of `imagecensus classify`: its options, the pipeline, runners, and the run report."""
