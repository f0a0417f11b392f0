"""Every step from an empty file to the tables in schema.py, in order. Run by migrate.py, never by hand."""
