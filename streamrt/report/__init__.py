"""Reports of a call: the times of reading and computing (`trace`), sums of them (`stats`), and a picture (`picture`)."""
