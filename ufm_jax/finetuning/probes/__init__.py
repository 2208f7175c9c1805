"""Frozen features judged by a linear probe and by nearest neighbours."""
