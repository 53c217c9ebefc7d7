"""The process that loads recipes, tests their engines and inspects one frame after another."""
