"""One file per runtime; `base.py` says what it must do, `catalog.py` names them."""
