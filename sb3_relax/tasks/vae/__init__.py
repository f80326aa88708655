"""Variational autoencoders with binary latents: the data, and what is trained on it."""
