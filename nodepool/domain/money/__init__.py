"""Prices, postings and holds. Pure: the ledger itself is in stores/sql/ledger."""
