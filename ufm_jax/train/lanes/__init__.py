"""How many clients train side by side on each device: measured, then chosen."""
