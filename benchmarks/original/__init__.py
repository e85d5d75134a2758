"""`--mode=benchmark`: this code's speed, and beside it that of the authors' PyTorch code."""
