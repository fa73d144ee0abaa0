"""How the verbs run on more machines than one. No package imports it."""
