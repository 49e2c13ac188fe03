"""One measurement, one fresh process: its task (`job`), its start and end (`spawn`), and its work (`child`)."""
