"""Notifications are sent: HTTP and SMTP to machines that the pool does not know. Knows no planning."""
