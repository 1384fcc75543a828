"""Pixels of stored objects: frames by their offsets, decoded and drawn by processes of their own."""
