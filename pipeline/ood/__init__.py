"""Distribution shift: how far a new case lies from the cases that a model was trained on."""
