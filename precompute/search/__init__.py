"""Eq. 2 made well-posed: exact searches of the best box on a saliency map."""
