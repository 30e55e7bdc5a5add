"""What happens to a frame, a question and a rule, in plain Python."""
