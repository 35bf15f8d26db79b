"""Ray, as this project uses it: token authentication on, loopback unless asked, no dashboard, no logs in ours.

Ray starts processes, carries arrays and says who died. Everything else is decided by `augment.service.client`.
"""

import hashlib
import importlib
import importlib.util
import itertools
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from augment.request import Source
from precompute.base.errors import BadValue, UserError
from precompute.base.program import count

NAMESPACE = "saliencyswap"
_numbers = itertools.count(1)
PREFIX = "views-"  # of helpers' names
# Ray replaces 127.0.0.1 by the machine's outward address, and then listens on all of them; but not where it believes
# that clusters cannot be.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
_STORE = 512 << 20  # bytes of shared memory for batches on their way, where this process starts Ray itself
LOOK_EVERY = 0.5  # seconds between looks for helpers
AGAIN = 30.0  # seconds until a helper that could not begin is tried again
_TALK = "talk"  # a helper's thread that answers while another one cuts
MODE, TOKEN, TOKEN_FILE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"  # Ray's environment


def connect(address: str | None, cpus: int = 0) -> Any:
    """The module `ray`, connected: to the cluster at `address`, or to one on this machine alone that this call starts.

    `cpus`: those that the one on this machine may give to tasks; helpers need none. A connection that this process has
    already is used as it is. BadValue without the extra; UserError where the
    cluster cannot be joined.
    """
    if importlib.util.find_spec("ray") is None:
        remedy = "Install it: pip install 'saliencyswap[ray]'"
        raise BadValue("service", "ray", "off without the package ray, which is not installed", remedy)
    host, _, port = (address or "127.0.0.1").rpartition(":")
    settings = {MODE: "token"} | (LOOPBACK if (host or port).startswith(("127.", "localhost")) else {})
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "ray" not in sys.modules:  # it reads its environment once
        for name, value in settings.items():
            os.environ.setdefault(name, value)
    if address is None and os.environ.get(MODE) == "token":
        _own_token()
    ray: Any = importlib.import_module("ray")
    if ray.is_initialized():
        return ray
    if late := {name: value for name, value in settings.items() if name not in os.environ}:
        words = " ".join(f"{name}={value}" for name, value in late.items())
        raise UserError(
            f"ray was imported before its settings were made ({words}). Put them into the environment, import ray "
            "after the views were opened, or connect it yourself by ray.init"
        )
    try:
        if host and port.isdigit():  # Ray would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        remedy = "It is printed by `ray start --head`, and by augment.serve"
        raise BadValue("address", address, f"that of a Ray cluster, HOST:PORT; there: {error}", remedy) from error
    quiet: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "configure_logging": False}
    # Ray starts a process for each CPU at once.
    local = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": _STORE}
    with _own_signals():
        try:
            # "local": else RAY_ADDRESS, or a cluster that happens to run here, would be joined.
            try:
                ray.init(address or "local", **quiet, **({} if address else local))
            except Exception as error:
                if address or "timed out during startup" not in str(error):
                    raise
                ray.shutdown()  # it gives itself half a minute, which a busy machine may need: once more
                ray.init("local", **quiet, **local)
        except Exception as error:
            raise UserError(_why_not(error, address)) from error
    return ray


def _why_not(error: BaseException, address: str | None) -> str:
    """What is said where Ray cannot be used; its own errors have what matters in their causes."""
    cause: BaseException | None = error
    while cause is not None and "uthentication" not in str(cause):
        cause = cause.__cause__ or cause.__context__
    if cause is None or address is None:
        return (
            f"Ray cannot be used on {address or 'this machine'}: {error}. A cluster is started by `ray start --head`, "
            f"with the same {MODE}=token and token on every machine"
        )
    return (
        f"the cluster at {address} refuses this program's token ({token_in_use()}): its own is another one. Take that "
        f"of the machine of `ray start --head`, from ~/.ray/auth_token or what {TOKEN} or {TOKEN_FILE} says there, "
        f"into {TOKEN} or ~/.ray/auth_token here. augment.serve prints the digest of the cluster's"
    )


def token_in_use() -> str:
    """Where Ray takes this program's token from, with six digits of its digest to compare it with another's."""
    if not (token := os.environ.get(TOKEN)):
        try:
            token = _token_file().read_text()
        except OSError:
            return f"none: {TOKEN} is not set, and {_token_file()} cannot be read"
    digest = hashlib.sha256(token.strip().encode()).hexdigest()[:6]
    return f"that of {TOKEN if os.environ.get(TOKEN) else _token_file()}, digest {digest}"


def _token_file() -> Path:
    return Path(os.environ.get(TOKEN_FILE) or Path.home() / ".ray" / "auth_token")


def start_helper(ray: Any, source: Source, workers: int, node: str, name: str) -> Any:
    """A helper on the cluster's node with this id. It ends with this process; Ray starts it again when it dies.

    `source`: see `helper.located`.
    """
    from augment.service.helper import Helper

    return as_helper(ray, Helper, node, name).remote(source, workers)


def as_helper(ray: Any, kind: type, node: str, name: str) -> Any:
    """The class of an actor that clients find as a helper; `remote(...)` of it starts one."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Bound to no CPU of Ray's book-keeping: a node whose CPUs are all promised would never get its helper.
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0, concurrency_groups={_TALK: 1})(kind)
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return actor.options(name=PREFIX + name, namespace=NAMESPACE, scheduling_strategy=there)


def talk(method: Any, *arguments: Any) -> Any:
    """Calls a helper's method in the thread that is free while it cuts; a reference."""
    return method.options(concurrency_group=_TALK).remote(*arguments)


class Fleet:
    """The helpers that serve a stream, as they come and go; a thread looks for them."""

    def __init__(self, ray: Any, stream: str, say: Callable[[str], None], own: Sequence[Any] = ()) -> None:
        """`stream`: see `Stream.to_json`; `own`: helpers that live as long as this."""
        self._ray, self._stream, self._say, self._own = ray, stream, say, list(own)
        self.ready: dict[str, Any] = {}  # by name; the thread adds, the client takes away
        self.refused: dict[str, str] = {}
        self._asked: dict[str, tuple[Any, Any]] = {}  # handles, and references of their answers
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._look, name="augment-helpers", daemon=True)
        self._thread.start()

    def ask(self, name: str, epoch: int, step: int) -> Any:
        """A reference to (crops, answer) of a batch, from the helper of this name."""
        return self.ready[name].cut.remote(self._stream, epoch, step)

    def done(self, reference: Any, seconds: float) -> bool:
        """Waits until an answer, or its failure, is here."""
        return bool(self._ray.wait([reference], timeout=max(seconds, 0))[0])

    def take(self, reference: Any) -> tuple[Any, str]:
        """What has come. Raises ConnectionError where the helper was lost, or the batch could not be made there."""
        try:
            return self._ray.get(reference, timeout=0.1)  # it is here; but the machine that made it may be gone
        except self._ray.exceptions.RayError as error:
            raise ConnectionError(str(error).strip().splitlines()[-1]) from error
        except UserError as error:
            raise ConnectionError(str(error)) from error

    def lose(self, name: str) -> None:
        """Asks this helper for no more batches before it has answered again."""
        self.ready.pop(name, None)

    def close(self) -> None:
        """Ends the thread."""
        self._closed.set()
        self._thread.join(timeout=2)
        for held in (self.ready, self._asked, self._own):
            held.clear()

    def _look(self) -> None:
        while not self._closed.wait(0.02 if self._asked else LOOK_EVERY):
            try:
                self._ask_new()
            except Exception as error:
                if not self._closed.is_set():
                    self._say(f"helpers: Ray does not answer: {error}")
                    self._closed.wait(10)
            self._admit_those_that_answered()

    def _ask_new(self) -> None:
        names = {n for n in self._ray.util.list_named_actors() if n.startswith(PREFIX)}
        for name in sorted(names - self.ready.keys() - self._asked.keys() - self.refused.keys()):
            handle = self._ray.get_actor(name, namespace=NAMESPACE)
            self._asked[name] = handle, talk(handle.admit, self._stream)

    def _admit_those_that_answered(self) -> None:
        for name, (handle, reference) in list(self._asked.items()):
            if not self.done(reference, 0):
                continue
            del self._asked[name]
            try:
                refusal = self._ray.get(reference)
            except self._ray.exceptions.RayError:  # it died: it is asked again when it is back
                continue
            if refusal:
                self.refused[name] = refusal
                self._say(f"helper {name} is not used: {refusal}")
            else:
                self.ready[name] = handle
                self._say(f"helper {name} serves; {len(self.ready)} in all")


class Crew:
    """The helpers of a cluster's machines, started by this process."""

    def __init__(self, ray: Any, source: Source, workers: int, each: int) -> None:
        """`workers`: threads of a helper, 0 for one per core; `each`: helpers of a machine."""
        from augment.service.helper import located

        self._ray, self._source, self._workers, self._each = ray, located(source), workers, each
        self._helpers: dict[str, tuple[str, Any]] = {}  # by name: the id of its machine, and its handle
        self._first: dict[str, Any] = {}  # by name: what says that it has begun, while it has not
        self._again: dict[str, float] = {}  # by name: when one that could not begin is tried again
        self._before: dict[str, dict[str, Any]] = {}

    def hire(self) -> list[str]:
        """Starts helpers on machines that are new, forgets those of machines that are gone.

        A line about each that begins, serves, or cannot begin; that one is tried again half a minute later.
        """
        nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in self._ray.nodes() if node["Alive"]}
        self._helpers = {name: helper for name, helper in self._helpers.items() if helper[0] in nodes}
        lines = []
        for node, address in nodes.items():
            for i in range(self._each):
                name = f"{address}-{node[:6]}-{os.getpid()}-{i}"
                if name not in self._helpers and time.monotonic() >= self._again.get(name, 0.0):
                    handle = start_helper(self._ray, self._source, self._workers, node, name)
                    self._helpers[name], self._first[name] = (node, handle), talk(handle.report)
                    lines.append(f"helper {name}: begins")
        return lines + [line for name in list(self._first) if (line := self._begun(name))]

    def _begun(self, name: str) -> str:
        """What there is to say of a helper that had not begun."""
        if name not in self._helpers:  # its machine is gone
            del self._first[name]
        elif self._ray.wait([self._first[name]], timeout=0)[0]:
            _, handle = self._helpers[name]
            try:
                self._ray.get(self._first.pop(name))
            except self._ray.exceptions.ActorUnavailableError:  # killed before it had begun: Ray starts it again
                self._first[name] = talk(handle.report)
                return ""
            except self._ray.exceptions.RayError as error:
                self._ray.kill(handle)  # so that its name is free
                del self._helpers[name]
                self._again[name] = time.monotonic() + AGAIN
                why = str(error).strip().splitlines()[-1]
                return f"helper {name}: cannot begin, is tried again in {AGAIN:.0f} s: {why}"
            return f"helper {name}: serves"
        return ""

    def report(self, patience: float = 5.0) -> list[str]:
        """A line a helper: its rate, how busy it was since the last report, its trainings. Waits `patience` seconds."""
        asked = {name: talk(handle.report) for name, (_, handle) in self._helpers.items()}
        self._ray.wait(list(asked.values()), num_returns=len(asked), timeout=patience) if asked else None
        lines = []
        for name, reference in asked.items():
            try:
                now = self._ray.get(reference, timeout=0.1)
            except self._ray.exceptions.RayError as error:
                lines.append(f"helper {name}: does not answer ({type(error).__name__})")
                continue
            before = self._before.get(name, {})
            if before.get("seconds", 0) > now["seconds"]:  # it was started again meanwhile
                before = {}
            more = {key: now[key] - before.get(key, 0) for key in ("seconds", "busy", "batches", "samples")}
            seconds = max(more["seconds"], 1e-9)
            lines.append(
                f"helper {name}: {more['batches']} batches, {more['samples'] / seconds:.1f} images/s, busy "
                f"{more['busy'] / seconds:.0%}, waits for trainings the rest; {count(now['streams'], 'stream')}"
            )
            self._before[name] = now
        return lines


def open_fleet(address: str | None, stream: str, source: Source, workers: int, say: Callable[[str], None]) -> Fleet:
    """The helpers of the cluster at `address` for a stream; without one, a helper of this process on this machine.

    Raises as `connect` does.
    """
    ray = connect(address)
    if address is not None:
        return Fleet(ray, stream, say)
    from augment.service.helper import located

    node, name = ray.get_runtime_context().get_node_id(), f"{os.getpid()}-{next(_numbers)}"
    say(f"service: Ray on this machine alone, with a helper of {workers} threads")
    return Fleet(ray, stream, say, [start_helper(ray, located(source), workers, node, name)])


def _own_token() -> None:
    """Makes the token that Ray will find, for this user alone. Ray would make one that others can read."""
    path = _token_file()
    if os.environ.get(TOKEN) or path.exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keeps this process's meaning of SIGTERM, which Ray would change; trainers save upon it."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
