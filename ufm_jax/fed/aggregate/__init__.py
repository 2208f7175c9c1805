"""How the updates of a cohort become one: the weighted mean, and rules that resist some of them."""
