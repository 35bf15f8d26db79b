"""Image set → one HDF5 file of saliency boxes: `python -m precompute.boxes`, `python -m precompute.inspect`."""
