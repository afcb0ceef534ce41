"""The configuration: its options (`model`), read from a file, the environment and flags (`load`)."""
