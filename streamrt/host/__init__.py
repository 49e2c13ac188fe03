"""Resources of the machine: memory, budgets, threads, speeds, and turns at the interpreter's lock."""
