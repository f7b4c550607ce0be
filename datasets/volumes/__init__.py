"""Raw volumes: how they lie in folders, how NIfTI and DICOM are read, and what is wrong with them."""
