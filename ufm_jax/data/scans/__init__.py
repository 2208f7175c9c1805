"""What hospitals store: DICOM, clips and NIfTI, read without anything that names a patient."""
