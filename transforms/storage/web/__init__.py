"""Web addresses as a store that is only read: connections, manners, IIIF, Hugging Face."""
