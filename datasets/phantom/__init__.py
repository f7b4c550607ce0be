"""A seeded CT phantom of the abdomen, for tests and demonstrations."""
