"""The report of a run: one self-contained HTML page of figures, tables and pictures.

The page needs no network and no script to be read; charts are inline SVG, images inline PNG.
"""
