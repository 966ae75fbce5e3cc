"""The domain of runfold: what may be asked, what can happen, and what a run is; pure functions and frozen Structs."""

__version__ = "0.1.0"
