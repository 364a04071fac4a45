"""Models of other libraries as students, one file per library; `adapt` for a module at hand."""

from c2s.students.adapters.adapted import Adapted, adapt
from c2s.students.adapters.libraries import create_adapted
from c2s.students.adapters.library_student import InputSpec

__all__ = ["Adapted", "InputSpec", "adapt", "create_adapted"]
