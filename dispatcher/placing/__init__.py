"""Waiting tasks come to nodes: planned, reserved, placed and told. Knows no sweep, and calls no node."""
