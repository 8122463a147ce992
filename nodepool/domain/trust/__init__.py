"""Tiers, credit, replicas, audits and probes: what makes a result believed. Pure."""
