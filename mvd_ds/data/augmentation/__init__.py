"""The augmentations of labelled training: RandAugment, and what fine-tuning does to a clip."""
