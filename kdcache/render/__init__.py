"""Renderers, which turn encoded images and crop boxes into pixels, with DALI or Pillow."""
