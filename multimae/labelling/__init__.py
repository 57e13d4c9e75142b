"""Networks that label photographs, what becomes of their answers, and what is told beside the labels."""
