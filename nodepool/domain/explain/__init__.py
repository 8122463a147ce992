"""Why a task waits, and what its owner could change. Pure: words and numbers, no layout."""
