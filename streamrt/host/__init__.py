"""What the machine has and gives: memory, budgets, threads, and whose turn at the interpreter it is."""
