"""Views: where the network looks at a sample."""
