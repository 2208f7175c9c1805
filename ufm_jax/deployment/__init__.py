"""A federation of real sites: what each of them does, and what the server does, by messages."""
