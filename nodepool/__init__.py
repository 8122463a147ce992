"""The pool's rules (pure) and its doors to the world: settings, wire, queues, stores."""
