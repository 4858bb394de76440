"""The ground that everything stands on: errors, version, redaction, downloads, caches.

Imports nothing of the project.
"""
