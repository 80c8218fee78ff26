"""From records to what a person reads: neutral tables first, then the terminal and the notebook."""
