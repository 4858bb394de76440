"""One module a family of formats: from bytes to `opened.Opened`. Imports the rest of `decoding`."""
