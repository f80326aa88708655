"""What puts the parts of an update together: the one train(), and what SB3 asks of an algorithm around it."""
