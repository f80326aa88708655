"""What inverse graphics has in common, whatever the renderer: the guess of a picture, its model, and figures."""
