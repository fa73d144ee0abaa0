"""The network: two streams, an exchange after every stage, two decoders."""
