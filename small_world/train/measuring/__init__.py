"""How good the base model is: the judges' answers, distance to true renders, recipes compared."""
