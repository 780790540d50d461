"""From a question–answer file to training, validation and hold-out rows.

`readers` gives raw rows, `checks` says what is wrong with them and makes clean ones, `splits` divides those.
"""
