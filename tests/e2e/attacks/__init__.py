"""What hostile clients do. Each attack is ``attack(port, until_s)``; see `e2e.hostile`."""
