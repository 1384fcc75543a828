"""The archive as an SCP of DIMSE's queries and retrievals (PS3.4 C)."""
