"""What a pass did: when it read and computed what, added up, and drawn."""
