"""The figures: run measures and prints them; cluster.py makes a thousand workloads, audit.py reads the witness."""
