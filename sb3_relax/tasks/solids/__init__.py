"""Inverse graphics in three dimensions: a textured solid on a floor, and a ray tracer as the cost."""
