"""Models on other machines: experts, and the client that judges and reward servers share."""
