"""Options: what there is (`model`), and how a file, the environment and flags become it (`load`)."""
