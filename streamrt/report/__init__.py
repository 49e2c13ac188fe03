"""Reports of a call: times (`trace`), sums of them (`stats`), and a picture (`picture`). `table` is for any report."""
