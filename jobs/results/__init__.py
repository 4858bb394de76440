"""Reading a finished table: opening it, querying it, thumbnails, metrics, plots and pages."""
