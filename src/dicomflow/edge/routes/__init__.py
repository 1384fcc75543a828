"""Which destination gets what: what the rules say of each series of a delivery."""
