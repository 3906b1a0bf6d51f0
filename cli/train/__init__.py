"""`train`: one command a training; `common` holds what they share."""
