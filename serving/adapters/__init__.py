"""LoRA adapters as files: what is uploaded, judged before anything else reads it, and kept.

targets   the model's modules that take adapters, with their shapes
peft      adapter_config.json -> what of it matters here
weights   the header of adapter_model.safetensors -> its tensors
fit       whether the two go with each other and with the model
shelf     files by the digest of their content, in a folder that replicas share
"""
