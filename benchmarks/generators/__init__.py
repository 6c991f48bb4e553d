"""Diffusion, a GAN and a VAE on the same people, with equal minutes and equal parameters."""
