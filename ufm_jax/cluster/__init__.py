"""Processes and hosts: joining, agreeing, a peer that is gone, signals."""
