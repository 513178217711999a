"""Data sets as records: loaders, schemas, and the records themselves."""
