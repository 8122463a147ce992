"""Packages and results on disk, encrypted. Knows no task: files go by their hash or their attempt."""
