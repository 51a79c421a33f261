"""Sharing caches and models: the Hugging Face hub as a place of a cache, and the cards that say what is there."""
