"""What happened, how far does it reach? Pure reading: nothing of a model is loaded or unpickled."""
