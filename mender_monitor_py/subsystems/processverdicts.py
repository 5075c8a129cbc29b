"""Which programs are findings of a process check, as far as its list alone tells."""

from __future__ import annotations

from mender_monitor_py.proclist import Entry, Image, Programs, listed
from mender_monitor_py.subsystems.expected import Expected

_MAX_KEPT = 4096


class Verdicts:
    """
    The verdicts by what is *expected*, each remembered. *deny*: what is on the list is the finding.

    There are none before :meth:`begin`, which is due whenever the entries are others.
    """

    def __init__(self, expected: Expected[Entry], *, deny: bool) -> None:
        self._expected = expected
        self._deny = deny
        self._programs: Programs | None = None
        self._kept: dict[Image, bool | None] = {}

    @property
    def known(self) -> bool:
        return self._programs is not None

    def begin(self) -> None:
        self._programs = Programs(self._expected.entries)
        self._kept.clear()

    def end(self) -> None:
        """There is no list any more."""
        self._programs = None

    def of(self, image: Image) -> bool | None:
        """Whether *image* is a finding; None: the conditions of its entries decide."""
        if image not in self._kept:
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            if not self.about(image) and self._expected.follow_links():
                self.begin()
            on_list = listed(self.about(image))
            self._kept[image] = bool(image.odd) or (None if on_list is None else on_list == self._deny)
        return self._kept[image]

    def about(self, image: Image) -> list[Entry]:
        """The entries that name *image*. There has to be a list."""
        assert self._programs is not None
        return self._programs.about(image)

    def lists(self, executable: str) -> bool:
        """Whether an entry names *executable* itself, by no glob."""
        return self._programs is not None and self._programs.has(executable)
