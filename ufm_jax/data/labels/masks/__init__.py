"""Masks: classes, decoding, and rows of one size beside their images."""
