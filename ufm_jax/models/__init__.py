"""Flax modules; nothing else imports flax."""
