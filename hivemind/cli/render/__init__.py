"""How answers look on a terminal. Opens no connection and decides nothing."""
