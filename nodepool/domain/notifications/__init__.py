"""Rules of what people are told when their tasks end: to whom, when, how often, and signed how. Pure."""
