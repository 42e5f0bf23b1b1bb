"""The hospital's tool: pair the series of a folder, fuse each pair, write derived series and a report."""
