"""The machine as the subsystems see it: shared watchers, each made when first needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mender_monitor_py.host.clock import Clock
from mender_monitor_py.paths import Paths

if TYPE_CHECKING:
    from mender_monitor_py.host.bus import SystemBus
    from mender_monitor_py.host.follow import Files
    from mender_monitor_py.host.inotify import Inotify
    from mender_monitor_py.host.installation import Installation
    from mender_monitor_py.host.processevents import ProcessEvents
    from mender_monitor_py.host.procfs import Procfs
    from mender_monitor_py.host.replaced import Replaced
    from mender_monitor_py.host.runner import Runner
    from mender_monitor_py.host.scanner import Scanner
    from mender_monitor_py.host.shellchecks import ShellChecks
    from mender_monitor_py.host.systemd import Systemd
    from mender_monitor_py.host.updates import Updates


class Host:
    """
    One inotify, one bus connection and one follower a file for all checks.

    A part is imported and opened when a check asks for it, so that a device pays only for what it uses.
    """

    def __init__(self, paths: Paths, clock: Clock) -> None:
        self.paths = paths
        self.clock = clock
        self.held: Callable[[], bool] = lambda: False  # whether findings are held back
        self._inotify: Inotify | None = None
        self._files: Files | None = None
        self._bus: SystemBus | None = None
        self._systemd: Systemd | None = None
        self._runner: Runner | None = None
        self._shells: ShellChecks | None = None
        self._procfs: Procfs | None = None
        self._scanner: Scanner | None = None
        self._processes: ProcessEvents | None = None
        self._updates: Updates | None = None
        self._installation: Installation | None = None
        self._replaced: Replaced | None = None

    @property
    def inotify(self) -> Inotify:
        """The kernel's file events."""
        if self._inotify is None:
            from mender_monitor_py.host.inotify import Inotify

            self._inotify = Inotify()
        return self._inotify

    @property
    def files(self) -> Files:
        """Followed log files, one reader a file."""
        if self._files is None:
            from mender_monitor_py.host.follow import Files

            self._files = Files(self.inotify)
        return self._files

    @property
    def bus(self) -> SystemBus:
        """The D-Bus system bus: calls and signals, over its restarts."""
        if self._bus is None:
            from mender_monitor_py.host.bus import SystemBus

            self._bus = SystemBus(self.inotify)
        return self._bus

    @property
    def systemd(self) -> Systemd:
        """The service manager's units."""
        if self._systemd is None:
            from mender_monitor_py.host.systemd import Systemd

            self._systemd = Systemd(self.bus)
        return self._systemd

    @property
    def runner(self) -> Runner:
        """Runs what users write, outside the watcher."""
        if self._runner is None:
            from mender_monitor_py.host.runner import Runner

            self._runner = Runner(self.paths.runner_socket)
        return self._runner

    @property
    def shells(self) -> ShellChecks:
        """Runs the checks of the shell subsystems."""
        if self._shells is None:
            from mender_monitor_py.host.shellchecks import ShellChecks

            self._shells = ShellChecks(self.paths.share, self.paths.run, self.runner)
        return self._shells

    @property
    def procfs(self) -> Procfs:
        """The processes."""
        if self._procfs is None:
            from mender_monitor_py.host.procfs import Procfs

            self._procfs = Procfs()
        return self._procfs

    @property
    def scanner(self) -> Scanner:
        """Reads many files, or whole ones, in a process of their own."""
        if self._scanner is None:
            from mender_monitor_py.host.scanner import Scanner

            self._scanner = Scanner()
        return self._scanner

    @property
    def processes(self) -> ProcessEvents:
        """Every exec and exit, as it happens."""
        if self._processes is None:
            from mender_monitor_py.host.processevents import ProcessEvents

            self._processes = ProcessEvents()
        return self._processes

    @property
    def updates(self) -> Updates:
        """The deployment that the update client installs."""
        if self._updates is None:
            from mender_monitor_py.host.updates import Updates

            self._updates = Updates(self.paths, self.inotify, self.procfs, self.clock)
        return self._updates

    @property
    def installation(self) -> Installation:
        """What the update client does to the device while it installs."""
        if self._installation is None:
            from mender_monitor_py.host.installation import Installation

            self._installation = Installation(self.paths.mender, self.procfs, self.processes)
        return self._installation

    @property
    def replaced(self) -> Replaced:
        """What is run still though a deployment has replaced it."""
        if self._replaced is None:
            from mender_monitor_py.host.replaced import Replaced

            self._replaced = Replaced(self.procfs)
        return self._replaced

    @property
    def installing(self) -> bool:
        """
        Whether the update client installs something now, or has since findings are held back.

        What it has done until its end while the daemon was stopped is met afterwards.
        """
        return self.held() or (self._installation is not None and self._installation.active)

    @property
    def updating(self) -> bool:
        """Whether the update client is at work on a deployment: it downloads or installs."""
        return self._installation is not None and self._installation.followed

    def installs(self, pid: int) -> bool:
        """Whether *pid* is the update client, or was started by it, while it is at work on a deployment."""
        return self._installation is not None and self._installation.explains(pid)

    async def brings(self, file: str, pid: int, digest: Callable[[str, int], str]) -> bool:
        """Whether the update client runs *pid*, or is installing *file*, which that executes."""
        return self._installation is not None and await self._installation.brings(file, pid, digest)

    async def aclose(self) -> None:
        """Close what was opened."""
        if self._updates is not None:
            self._updates.close()
        if self._processes is not None:
            self._processes.close()
        if self._systemd is not None:
            await self._systemd.aclose()
        if self._bus is not None:
            await self._bus.aclose()
        if self._files is not None:
            await self._files.aclose()
        if self._runner is not None:
            await self._runner.aclose()
        if self._inotify is not None:
            self._inotify.close()
