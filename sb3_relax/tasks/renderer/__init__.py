"""Inverse graphics: what is drawn is guessed from the picture, and a renderer with hard edges is the cost."""
