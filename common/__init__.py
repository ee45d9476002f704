"""The ground floor: what every part of latentfaces stands on."""
