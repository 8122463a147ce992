"""The protocol as code: generated from proto/nodepool.proto by `make proto`, never edited."""
