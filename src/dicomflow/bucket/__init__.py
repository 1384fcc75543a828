"""What edge and cloud share of the bucket: its keys, and how they are listed."""
