"""What can be trained on a model, one recipe a file."""
