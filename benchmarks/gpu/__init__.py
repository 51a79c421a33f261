"""One sitting on a GPU: `sitting.py` runs every check that needs one, `pack.py` packs what such a machine lacks."""
