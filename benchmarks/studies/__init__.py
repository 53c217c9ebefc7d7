"""Research programs. Not part of the wheel."""
