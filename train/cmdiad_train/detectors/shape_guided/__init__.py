"""Shape-Guided: patches of a cloud against the surfaces that codes of good patches stand for."""
