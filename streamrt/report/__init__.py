"""Reports of a call: times of reading and computing (`trace`), sums of them (`stats`), and a picture (`picture`)."""
