"""The inspection process: loads recipes, proves their engines, and inspects one frame after another."""
