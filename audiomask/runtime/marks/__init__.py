"""Make the carriers of Hallmark from a key, and find them again."""
