"""The settings of networks: encoders, decoders, published image networks, model folders of `transformers`."""
