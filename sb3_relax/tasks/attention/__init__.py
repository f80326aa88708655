"""Hard attention: where to look is drawn, and what is seen there is classified."""
