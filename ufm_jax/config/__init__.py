"""Every key of a configuration: its type, range, default and meaning; and the command line."""
