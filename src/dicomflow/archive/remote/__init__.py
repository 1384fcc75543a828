"""An archive that is elsewhere, asked by DICOMweb: by the interface that a catalog's has."""
