"""File capabilities: the extended attribute ``security.capability`` as text; see capabilities(7)."""

from __future__ import annotations

import struct

# <linux/capability.h>: struct vfs_cap_data, little endian on every machine
_REVISION, _EFFECTIVE = 0xFF000000, 0x1
_PAIRS = {0x01000000: 1, 0x02000000: 2, 0x03000000: 2}
_WITH_ROOT = 0x03000000
_MAX_SHOWN = 64
_NAMES = tuple(
    """
    chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable
    net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot
    sys_ptrace sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease
    audit_write audit_control setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read
    perfmon bpf checkpoint_restore
    """.split()  # noqa: SIM905 - a table of words
)


def text(data: bytes) -> str:
    """
    *data* in one word, as ``cap_net_admin+cap_net_raw=ep``; empty when it gives nothing.

    Groups with other flags follow after ``/``; ``@1000`` at the end is the root of its user
    namespace (revision 3). What is no such attribute is shown in hexadecimal.
    """
    if not data:
        return ""
    revision = int.from_bytes(data[:4], "little") & _REVISION if len(data) >= 4 else 0
    pairs = _PAIRS.get(revision, 0)
    with_root = revision == _WITH_ROOT
    if not pairs or len(data) != 4 + 8 * pairs + 4 * with_root:
        return f"invalid:{data[:_MAX_SHOWN].hex()}"
    magic, *words = struct.unpack(f"<{len(data) // 4}I", data)
    permitted = words[0] | (words[2] << 32 if pairs == 2 else 0)
    inheritable = words[1] | (words[3] << 32 if pairs == 2 else 0)
    groups: dict[str, list[str]] = {}
    for number in range(32 * pairs):
        flags = ("i" if inheritable >> number & 1 else "") + ("p" if permitted >> number & 1 else "")
        if flags:
            groups.setdefault(("e" if magic & _EFFECTIVE else "") + flags, []).append(_name(number))
    found = "/".join(f"{'+'.join(names)}={flags}" for flags, names in sorted(groups.items()))
    return f"{found}@{words[-1]}" if found and with_root else found


def _name(number: int) -> str:
    return f"cap_{_NAMES[number] if number < len(_NAMES) else number}"
