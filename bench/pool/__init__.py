"""What a pool of models loads: traces of requests, the limits that they allow, simulations, and real runs."""
