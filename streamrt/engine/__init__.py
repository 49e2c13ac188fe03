"""Running: a program and a plan are prepared for a call, and a session runs passes, one thread at a time."""
