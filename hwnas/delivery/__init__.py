"""What is delivered beside the front: other forms of its members, cards, and `predict.py`."""

from hwnas.delivery.deliver import check_deliverable, deliver_forms
from hwnas.delivery.forms import Form, FormOptions

__all__ = ["Form", "FormOptions", "check_deliverable", "deliver_forms"]
