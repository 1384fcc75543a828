"""From stored objects to image sets: index, plan, drive, collect, and the handlers around them."""
