"""Publishing a checkpoint on the Hugging Face Hub."""
