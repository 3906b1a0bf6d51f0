"""How good the base model is: what the judges call its pictures, how near true renders, recipes."""
