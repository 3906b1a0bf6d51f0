"""Pictures for the page: curves, maps, grids and sheets."""
