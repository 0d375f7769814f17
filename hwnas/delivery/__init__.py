"""What is delivered beside the front: other forms of its members, cards, and `predict.py`."""

from hwnas.delivery.deliver import deliver_forms
from hwnas.delivery.forms import Form, FormOptions

__all__ = ["Form", "FormOptions", "deliver_forms"]
