"""What the templates need."""
