"""The front that is delivered: trained, exported, measured, refilled until it holds (`hold.py`)."""
