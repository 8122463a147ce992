"""What the pool knows of the present and may forget: its only room that speaks Redis. No rules."""
