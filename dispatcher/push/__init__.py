"""Nodes without an agent are called, and what they answer is told as an attempt's end. Knows no planning."""
