"""The read side: an interface that DICOMweb and DIMSE speak, and that a catalog and its store answer."""
