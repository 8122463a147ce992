"""The parts of `python -m benchmarks.simulate`: virtual nodes and tasks around the real dispatcher.

Unlike the other benchmarks it knows the product's insides: what it measures is between the gateway and
the agents, where no client can look.
"""
