"""Money is kept in whole millionths of a dollar, so that sums are exact."""


def micros(dollars: float) -> int:
    return round(dollars * 1_000_000)
