"""One protocol, one file: what is said about a backbone."""
