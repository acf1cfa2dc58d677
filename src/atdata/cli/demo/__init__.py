"""`atdata demo`: scikit-learn's handwritten digits become a dataset, and come back."""
