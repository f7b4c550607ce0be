"""A plan from the data: what they hold, what follows for spacing, window, crop, batch and schedule, and why."""
