"""What keeps an image or an archive that kills its reader from costing more than its own row."""
