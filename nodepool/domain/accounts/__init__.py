"""Rules for names, passwords, locks and rates of accounts. Pure."""
