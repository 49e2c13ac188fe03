"""One measurement, one fresh process: what it is told (`job`), how it starts and ends (`spawn`), and what it does
(`child`)."""
