"""How much of whose calls and messages is let in at once. Knows accounts by number, and no use case."""
