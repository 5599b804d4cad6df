"""What a reply is worth: reward models, other scorers, and rewards against a reference."""
