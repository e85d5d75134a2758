"""`--mode=benchmark`: the speed of this project, and of the authors' PyTorch code beside it."""
