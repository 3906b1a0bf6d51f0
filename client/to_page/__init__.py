"""A prompt's values in the page's own workflow: the way back from what `from_page` reads."""
