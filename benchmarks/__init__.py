"""Comparisons of tailrace with its peers: see README.md."""
