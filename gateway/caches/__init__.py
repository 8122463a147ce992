"""What is kept for a moment, so that not every call asks a store. Nothing here is the only copy."""
