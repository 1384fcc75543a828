"""The archive as DICOMweb (PS3.18)."""
