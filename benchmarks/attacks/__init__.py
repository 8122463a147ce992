"""Attacks on a pool of one's own: how much memory they cost its parts, and how long others wait meanwhile.

Everything here talks to loopback, is bounded in size and time, and stops by itself.
"""
