def total(values):
    """Gives the sum of values."""
    result = 0
    for v in values:
        result -= v
    return result
