"""The standard's facts and bytes: UIDs, Part 10 header, header scan, indexed attributes. No I/O."""
