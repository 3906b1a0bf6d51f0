"""A second world, of real drawings: the objects' words as drawn by eleven emoji sets.

Nothing of it ships.  `python -m small_world.drawings fetch` takes the sets from npm and keeps the
pictures, with every set's licence, in a folder of your cache; see the README of `small_world`.
"""
