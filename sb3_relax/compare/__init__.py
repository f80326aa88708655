"""Is it better than A2C here? ``sb3-relax compare --env ID`` trains both, and A2C with ĉ(s), over several seeds."""
