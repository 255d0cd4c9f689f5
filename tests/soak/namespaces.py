"""Network namespaces for nodes: each has an address and a cable of its own, which can lose packets or be cut.

They need root and `ip netns`. What is made carries the soak's process id in its name, so that two soaks can run beside
each other; it goes with the `with` block.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import ExitStack
from types import TracebackType
from typing import Self

__all__ = ["Namespaces", "can_reorder", "namespaces_work"]


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")


def namespaces_work() -> bool:
    """Whether this user can make them on this machine."""
    if os.geteuid() or not shutil.which("ip") or not shutil.which("iptables"):
        return False
    name = f"soak{os.getpid()}-probe"
    try:
        _run("ip", "netns", "add", name)
    except RuntimeError:
        return False
    _run("ip", "netns", "del", name)
    return True


class Namespaces:
    """A bridge in this namespace, and a namespace with a cable to it for each node.

    Args:
        count: how many nodes.
    """

    def __init__(self, count: int) -> None:
        self._mark = f"soak{os.getpid()}"
        # Two soaks have different process ids, and with them, all but surely, different networks.
        self._net = f"10.{64 + os.getpid() % 64}.{os.getpid() // 64 % 250}"
        self._stack = ExitStack()
        self.host = f"{self._net}.1"
        """This namespace's address on the bridge."""
        self.addresses = [f"{self._net}.{2 + number}" for number in range(count)]

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            bridge = f"{self._mark}b"
            _run("ip", "link", "add", bridge, "type", "bridge")
            stack.callback(_run, "ip", "link", "del", bridge)
            _run("ip", "address", "add", f"{self.host}/24", "dev", bridge)
            _run("ip", "link", "set", bridge, "up")
            for number, address in enumerate(self.addresses):
                self._lay(number, address, bridge, stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, problem, trace)

    def _lay(self, number: int, address: str, bridge: str, stack: ExitStack) -> None:
        name, here = self._name(number), f"{self._mark}v{number}"
        _run("ip", "netns", "add", name)
        stack.callback(_run, "ip", "netns", "del", name)
        _run("ip", "link", "add", here, "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "link", "set", here, "master", bridge, "up")
        inside = ("ip", "-n", name)
        _run(*inside, "link", "set", "lo", "up")
        _run(*inside, "address", "add", f"{address}/24", "dev", "eth0")
        _run(*inside, "link", "set", "eth0", "up")

    def _name(self, number: int) -> str:
        return f"{self._mark}-{number}"

    def inside(self, number: int) -> list[str]:
        """The words that run a command in a node's namespace."""
        return ["ip", "netns", "exec", self._name(number)]

    def lose(self, number: int, share: float) -> None:
        """Drop so much of what comes to a node and goes from it, and not only of what this machine calls new."""
        for chain in ("INPUT", "OUTPUT"):
            rule = ("-m", "statistic", "--mode", "random", "--probability", f"{share:.4f}", "-j", "DROP")
            way = ("-i", "eth0") if chain == "INPUT" else ("-o", "eth0")
            _run(*self.inside(number), "iptables", "-A", chain, *way, *rule)

    def cut(self, number: int) -> None:
        """Drop all of it: the node is up, and nobody hears it."""
        self.lose(number, 1.0)

    def reorder(self, number: int, milliseconds: int) -> None:
        """Delay what a node sends by chance, so that packets overtake each other."""
        netem = ("netem", "delay", f"{milliseconds}ms", f"{milliseconds}ms")
        _run(*self.inside(number), "tc", "qdisc", "add", "dev", "eth0", "root", *netem)

    def heal(self, number: int) -> None:
        """Carry everything again."""
        _run(*self.inside(number), "iptables", "-F")
        subprocess.run(
            [*self.inside(number), "tc", "qdisc", "del", "dev", "eth0", "root"], capture_output=True, check=False
        )


def can_reorder(namespaces: Namespaces) -> bool:
    """Whether the kernel has netem."""
    try:
        namespaces.reorder(0, 1)
    except RuntimeError:
        return False
    namespaces.heal(0)
    return True
