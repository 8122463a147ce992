"""One function for each thing that people, agents and workers ask for. Knows no gRPC."""
