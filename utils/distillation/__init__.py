"""Learning from a teacher: taps, terms, the objective that training minimizes, and its losses."""
