"""Speed and memory of this repository, compared with plain implementations (`make bench`)."""
