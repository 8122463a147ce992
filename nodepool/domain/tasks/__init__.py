"""States of tasks and attempts, and the rules for packages and results. Pure: opens no file by itself."""
