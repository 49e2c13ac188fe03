"""One measurement, one fresh process: its task (`job`), how it starts and ends (`spawn`), what it does (`child`)."""
