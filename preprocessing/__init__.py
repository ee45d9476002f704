"""The Beam job; importing it never imports TensorFlow."""
