"""From a recipe to a finished run: checks before the first step, training, the test split."""
