"""`hivemind up`: a whole pool on one machine, its parts started, watched and ended as programs."""
