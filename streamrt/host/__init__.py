"""What the machine has and gives: memory, budgets, threads, speeds, and turns at the interpreter's lock."""
