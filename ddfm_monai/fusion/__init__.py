"""The way of the data, from two volumes to a fused one and its files."""
