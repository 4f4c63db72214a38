"""How far the judges of a run can be trusted, and what is left when they are corrected."""
