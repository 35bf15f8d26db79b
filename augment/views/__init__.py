"""What a view is: policy, plan, geometry. NumPy only, no pixels."""
