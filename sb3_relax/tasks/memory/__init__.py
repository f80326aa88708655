"""A memory that is read slot by slot: which slot is drawn, and how far its value is from the right one is the cost."""
