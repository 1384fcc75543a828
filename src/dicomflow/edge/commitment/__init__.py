"""Storage commitment as SCP (PS3.4 J): requests kept, judged, and reported."""
