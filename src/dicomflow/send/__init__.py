"""Files to a peer over DIMSE: found, sent over several associations, and remembered in a journal."""
