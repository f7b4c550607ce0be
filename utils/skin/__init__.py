"""What is particular to lesions of the skin: metadata, boosting, generated images."""
