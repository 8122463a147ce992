"""What gateway and dispatcher both do over several stores. Knows neither of the two."""
