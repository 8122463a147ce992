"""`hivemind doctor`: what is wrong with the pool of this host, and what to do about it."""
