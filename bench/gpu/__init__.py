"""What a model of real size does on an accelerator, beside the baselines and the machine's own ceilings, in one run."""
