"""Picture encoders: what scores need of one, and the file of CSD."""
