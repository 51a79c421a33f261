"""Renderers: encoded images and crop boxes to pixels, by DALI or Pillow."""
