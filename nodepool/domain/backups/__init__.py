"""What a backup is made of, and whether it can be trusted and used. Pure."""
