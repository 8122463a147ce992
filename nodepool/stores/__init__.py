"""The only room that opens SQL and Redis. Synchronous; it knows the rules and no transport."""
