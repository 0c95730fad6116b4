"""The gang: its leader, its ranks, and the supervisor that keeps as many ranks running as the user wants."""
