"""Python functions as tasks: how they are packed, what runs them on a node, and how what came of it is read.

Knows packages and results, and no connection.
"""
