"""Training of experts, reward models and the Preference Control Model."""
