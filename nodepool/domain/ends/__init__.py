"""The ends of runs: what is known of one, and what follows from it, as data. Above the other rules.

`attempt_end.decide` is the door. It knows no database, no settings and no clock.
"""
