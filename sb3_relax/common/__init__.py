"""What LAXA2C and RELAXA2C share."""
