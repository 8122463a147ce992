"""What tests stand on: real services and a real pool, started and ended here, and ways to wait for them."""
