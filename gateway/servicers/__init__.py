"""The protocol's methods: a request in, one use case called, a reply out. No rules, no SQL."""
