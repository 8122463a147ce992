"""The rules. Pure: no clock, no I/O, no random source, no library but numpy; all of it is passed in."""
