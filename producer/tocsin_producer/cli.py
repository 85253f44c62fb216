"""The command line: options, each with its environment variable, and what a run is made of."""

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import FrameType
from typing import Any, TypeVar

from tocsin_producer.errors import PlanError, ProducerError, ReaderGoneError
from tocsin_producer.events import TOPICS, Event, Schedule
from tocsin_producer.metrics import Metrics, serve
from tocsin_producer.plan import Flaw, Plan
from tocsin_producer.run import run
from tocsin_producer.sinks import Sink
from tocsin_producer.sinks.stdout import StdoutSink

ENV_PREFIX = "TOCSIN_PRODUCER_"
DRY_RUN_EVENTS = 40

_log = logging.getLogger("tocsin_producer")

_DESCRIPTION = (
    "Send demo events: a steady load of deployments and auction bids, with a spike of one customer now and then."
)

_EPILOG = """\
examples:
  tocsin-producer --dry-run                                          what would be sent, at once
  tocsin-producer --sink stdout --rate 2 | jq .value                 watch it go by
  tocsin-producer --sink kafka --brokers 127.0.0.1:9092              the demo's load, into Kafka
  tocsin-producer --sink kafka --brokers 127.0.0.1:9092 \\
      --spike-interval 25s --first-spike-after 2s --malformed 0.05   more spikes, and events that break consumers
  tocsin-producer --sink stdout --rate 1000 --limit 100000           a load test that ends

Two topics: customer_events, keyed by customer, and winning_bids, keyed by auction. The same options give the same
events again, however often it is run; --seed gives others. Every option may also be set in the environment as
TOCSIN_PRODUCER_ and its name, such as TOCSIN_PRODUCER_SPIKE_INTERVAL=25s; the command line wins.
Times are seconds, or carry a unit: 500ms, 25s, 2m, 1h.

exit codes: 0 the schedule ended or the run was stopped, 1 something went wrong, 2 the options make no sense
"""

_NO_PAIRS: tuple[tuple[str, str], ...] = ()
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

T = TypeVar("T")


def main(arguments: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser, options = _parsed(arguments, os.environ if environ is None else environ)
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr, force=True
    )
    try:
        schedule = Schedule(_plan(options))
        if options.dry_run:
            _print(schedule)
        else:
            _send(schedule, options)
    except PlanError as error:
        name = f"--{error.option.replace('_', '-')}"
        parser.error(f"{name} (or {_variable(name)}) {str(error).partition(': ')[2]}")
    except ReaderGoneError:
        # What Python still holds for the closed pipe would fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ProducerError as error:
        _log.error("%s", error)
        return 1
    return 0


def _send(schedule: Schedule, options: argparse.Namespace) -> None:
    metrics = Metrics()
    stop = threading.Event()
    with ExitStack() as stack:
        stack.callback(lambda: _log.info("%s", metrics.summary()))
        stack.enter_context(_Signals(stop))
        if options.metrics_port is not None:
            stack.callback(serve(metrics, address=options.metrics_address, port=options.metrics_port))
        sink = stack.enter_context(_Closing(_sink(options, metrics, stop)))
        _log.info("sending to %s", options.brokers if options.sink == "kafka" else options.sink)
        events = schedule.events(start=time.time())
        finished = run(events, sink, metrics=metrics, monotonic=time.monotonic, wait=stop.wait)
        _log.info("the schedule has ended" if finished else "stopping")


def _sink(options: argparse.Namespace, metrics: Metrics, stop: threading.Event) -> Sink:
    if options.sink == "stdout":
        return StdoutSink()
    from tocsin_producer.sinks.kafka import KafkaSink

    sink = KafkaSink(
        options.brokers,
        metrics=metrics,
        monotonic=time.monotonic,
        stopped=stop.is_set,
        config=dict(options.kafka_option),
        close_timeout=options.close_timeout,
    )
    sink.prepare(TOPICS, partitions=options.partitions)
    return sink


def _print(schedule: Schedule) -> None:
    plan = schedule.plan
    count = DRY_RUN_EVENTS if plan.limit is None else plan.limit
    out = StdoutSink()
    try:
        for _, event in zip(range(count), schedule.events(start=time.time()), strict=False):
            print(_row(event))
        if plan.limit is None:
            print(f"... and so on; --limit shows more than {count}")
    except OSError:
        raise ReaderGoneError("the reader of standard output has closed it") from None
    out.flush()


def _row(event: Event) -> str:
    value = "null" if event.value is None else event.value[:200].decode(errors="backslashreplace")
    return f"{event.at:9.3f} s  {event.kind:<9}  {event.topic:<15}  {event.key.decode():>4}  {value}"


class _Closing:
    """`contextlib.closing`, except that a failed run is not told a second time by the close that follows it."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def __enter__(self) -> Sink:
        return self._sink

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            self._sink.close()
        except ProducerError as failure:
            if error is None:
                raise
            _log.error("%s", failure)


class _Signals:
    """SIGTERM and SIGINT ask for a stop; a second one ends the process the hard way."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._on_signal)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._stop.set()
        signal.signal(number, signal.SIG_DFL)


def _plan(options: argparse.Namespace) -> Plan:
    return Plan(**{name: getattr(options, name) for name in Plan.__dataclass_fields__})


def _variable(option: str) -> str:
    return ENV_PREFIX + option.removeprefix("--").replace("-", "_").upper()


class _Options:
    """Adds options whose defaults come from the environment. What is wrong there is told with the variable's name."""

    def __init__(self, parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
        self._parser = parser
        self._environ = environ
        self._group: argparse._ActionsContainer = parser

    def group(self, title: str) -> None:
        self._group = self._parser.add_argument_group(title)

    def add(
        self,
        option: str,
        parse: Callable[[str], T],
        default: T,
        help: str,  # noqa: A002
        *,
        metavar: str | None = None,
        choices: Sequence[str] | None = None,
    ) -> None:
        """An option with a value. An empty variable counts as not set, since that is what compose files make of
        one."""
        text = self._environ.get(_variable(option))
        found = default if not text else self._from_environment(_variable(option), text, parse, choices)
        self._group.add_argument(option, type=parse, default=found, help=help, metavar=metavar, choices=choices)

    def flag(self, option: str, help: str) -> None:  # noqa: A002
        text = self._environ.get(_variable(option), "")
        found = self._from_environment(_variable(option), text, _boolean, None) if text else False
        self._group.add_argument(option, action="store_true", default=found, help=help)

    def _from_environment(
        self, variable: str, text: str, parse: Callable[[str], T], choices: Sequence[str] | None
    ) -> T:
        try:
            value = parse(text)
        except argparse.ArgumentTypeError as error:
            self._parser.error(f"environment variable {variable}: {error}")
        if choices is not None and value not in choices:
            self._parser.error(f"environment variable {variable}: {text!r} is none of {', '.join(choices)}")
        return value


def _parsed(
    arguments: Sequence[str] | None, environ: Mapping[str, str]
) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        prog="tocsin-producer",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    options = _Options(parser, environ)
    _add_sink(options)
    _add_load(options)
    _add_faults(options)
    _add_operation(options)
    parsed = parser.parse_args(arguments)
    if parsed.sink is None and not parsed.dry_run:
        parser.error("say where to send with --sink kafka or --sink stdout, or use --dry-run")
    if parsed.sink == "kafka" and not parsed.brokers and not parsed.dry_run:
        parser.error("--sink kafka needs --brokers HOST:PORT")
    return parser, parsed


def _add_sink(options: _Options) -> None:
    options.group("where to send")
    options.add("--sink", str, None, "kafka or stdout", choices=("kafka", "stdout"))
    options.add("--brokers", str, None, "Kafka brokers, several with commas", metavar="HOST:PORT")
    options.add("--partitions", _integer, 1, "for topics that are created (default 1)", metavar="N")
    options.add(
        "--kafka-option",
        _pairs,
        _NO_PAIRS,
        "settings of librdkafka with commas or one a line, such as security.protocol=sasl_ssl; secrets belong in the "
        "environment",
        metavar="NAME=VALUE,...",
    )
    options.add(
        "--close-timeout",
        _seconds,
        10.0,
        "how long to wait for acknowledgements at the end (default 10s)",
        metavar="TIME",
    )
    options.flag(
        "--dry-run", f"print the schedule, {DRY_RUN_EVENTS} events unless --limit says otherwise, and send nothing"
    )


def _add_load(options: _Options) -> None:
    plan = Plan()
    options.group("load")
    options.add("--seed", _integer, plan.seed, "another seed, other events (default 1)", metavar="N")
    options.add("--customers", _integer, plan.customers, "how many (default 10)", metavar="N")
    options.add("--organizations", _names, plan.organizations, "names with commas (default A,B,C,D)", metavar="NAMES")
    options.add("--cloud-share", _number, plan.cloud_share, "of customers (default 0.2)", metavar="SHARE")
    options.add("--rate", _number, plan.rate, "steady customer events a second (default 0.05)", metavar="RATE")
    options.add("--spike-size", _integer, plan.spike_size, "events in a spike (default 10)", metavar="N")
    options.add(
        "--spike-interval", _seconds, plan.spike_interval, "between spikes; 0 for none (default 90s)", metavar="TIME"
    )
    options.add("--first-spike-after", _seconds, None, "(default: one interval)", metavar="TIME")
    options.add("--bid-rate", _number, plan.bid_rate, "auctions won a second (default 0.2)", metavar="RATE")
    options.add("--limit", _integer, None, "end after so many events (default: never)", metavar="N")


def _add_faults(options: _Options) -> None:
    plan = Plan()
    options.group("faults: extra events per regular event, 0 to 1, all 0 by default")
    options.add("--late", _number, plan.late, "regular events again, with a time in the past", metavar="SHARE")
    options.add("--late-by", _seconds, plan.late_by, "how far in the past (default 10m)", metavar="TIME")
    options.add("--duplicate", _number, plan.duplicate, "regular events again, byte for byte", metavar="SHARE")
    options.add("--future", _number, plan.future, "regular events again, with a time in the future", metavar="SHARE")
    options.add("--future-by", _seconds, plan.future_by, "how far in the future (default 1h)", metavar="TIME")
    options.add("--malformed", _number, plan.malformed, "events that are not what was agreed", metavar="SHARE")
    options.add("--flaws", _flaws, plan.flaws, f"which, with commas (default all: {','.join(Flaw)})", metavar="FLAWS")
    options.add(
        "--oversized-bytes", _integer, plan.oversized_bytes, "of an oversized event (default 200000)", metavar="N"
    )


def _add_operation(options: _Options) -> None:
    options.group("operation")
    options.add("--metrics-port", _integer, None, "serve /metrics on this port (default: not at all)", metavar="PORT")
    options.add("--metrics-address", str, "127.0.0.1", "address to serve it on (default 127.0.0.1)", metavar="ADDRESS")
    levels = ("debug", "info", "warning", "error")
    options.add("--log-level", str.lower, "info", "debug, info, warning or error (default info)", choices=levels)


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _seconds(text: str) -> float:
    number = text.rstrip("hms")
    unit = text[len(number) :] or "s"
    try:
        return float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 500ms, 25s or 2m") from None


def _boolean(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _flaws(text: str) -> tuple[Flaw, ...]:
    try:
        return tuple(Flaw(name) for name in _names(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; known are {', '.join(Flaw)}") from None


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    pairs = [part.partition("=") for part in text.split("\n" if "\n" in text else ",") if part.strip()]
    for number, (name, equals, _) in enumerate(pairs, start=1):
        if not equals or not name.strip():
            # Not what was written: it may hold a password.
            raise argparse.ArgumentTypeError(f"entry {number} is not of the form NAME=VALUE")
    return tuple((name.strip(), value) for name, _, value in pairs)
