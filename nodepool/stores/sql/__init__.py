"""What the pool remembers: its only room that speaks SQL. Functions of a connection; no Redis, no files."""
