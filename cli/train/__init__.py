"""`train`: a command a training, made of what it declares; `common` holds what all share."""
