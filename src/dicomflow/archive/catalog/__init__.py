"""The archive's interface as a catalog and its store answer it."""
