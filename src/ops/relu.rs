//! ReLU: `y = max(x, 0)`, `dx = dy where y > 0, else 0` (PyTorch's gradient at 0 is 0).
