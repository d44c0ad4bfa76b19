"""The parts of fine-tuning that show what was adapted."""
