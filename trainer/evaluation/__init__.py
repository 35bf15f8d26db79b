"""What an encoder is worth: kNN, linear probes, localisation, pictures."""
