"""What a comparison of runs is made of, and how it is shown: tables and figures."""
