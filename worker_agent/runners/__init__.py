"""How a run is kept in: containers, processes, their limits and their end. Knows no gateway, no broker."""
