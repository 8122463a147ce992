"""What happens in the pool, as its own processes say it, one structured line each."""
