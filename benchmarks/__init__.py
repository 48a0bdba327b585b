"""What the repository's speed is, against plain versions of the same work (`make bench`)."""
