"""The parts of `python -m benchmarks.cheaters`: nodes that cheat, and the rules that are to find them.

Pure: seeded, no clock, no processes. `ours` decides with the functions that the product decides with.
"""
