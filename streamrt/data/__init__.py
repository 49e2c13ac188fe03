"""Two packed digit classifiers and held-out images, made by ``examples/digits/train.py``.

``digits_test.npz`` holds ``images`` (450, 8, 8), uint8 from 0 to 16, and ``labels`` (450,), uint8: a part of "Optical
Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak (UCI Machine Learning Repository, 1998, CC BY 4.0,
https://doi.org/10.24432/C50P49), which scikit-learn distributes.
"""
