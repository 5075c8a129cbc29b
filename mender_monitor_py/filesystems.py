"""Kinds of file systems, as mountinfo names them. Pure."""

from __future__ import annotations

VIRTUAL = frozenset(
    """
    autofs binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts efivarfs fusectl hugetlbfs mqueue nsfs proc
    pstore rpc_pipefs securityfs selinuxfs sysfs tracefs
    """.split()  # noqa: SIM905 - a table of words
)
"""What never holds a program that could be executed."""
