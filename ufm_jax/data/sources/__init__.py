"""Sources: each turns what lies on disk (or a simulator) into records."""
