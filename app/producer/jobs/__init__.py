"""Jobs: two words go out to a worker, one sentence comes back."""
