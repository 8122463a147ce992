"""What Prometheus reads of the pool's own processes: which metrics there are, and how they are served."""
