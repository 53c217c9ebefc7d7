"""Write the evaluation report."""
