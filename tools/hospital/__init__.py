"""A hospital's files as PNG without what names a patient, and a page to check them by."""
