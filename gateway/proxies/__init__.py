"""Balancers before the gateway: the listener that reads their PROXY headers, and whose call it is."""
