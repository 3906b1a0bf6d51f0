"""What the page does with a workflow when Run is pressed, done without the page."""
