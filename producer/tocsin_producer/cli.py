"""The command line: its options, and what a run consists of."""

import argparse
import itertools
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from types import FrameType

from tocsin_producer.errors import PlanError, ProducerError, ReaderGoneError
from tocsin_producer.events import TOPICS, Schedule
from tocsin_producer.metrics import Metrics, serve
from tocsin_producer.plan import Flaw, Plan
from tocsin_producer.run import run
from tocsin_producer.sinks import Sink
from tocsin_producer.sinks.stdout import StdoutSink

ENV_PREFIX = "TOCSIN_PRODUCER_"
DRY_RUN_EVENTS = 40

_log = logging.getLogger("tocsin_producer")

_EPILOG = """\
examples:
  tocsin-producer --dry-run                                          print the schedule, at once
  tocsin-producer --sink stdout --rate 2 | jq .value                 print events as they are due
  tocsin-producer --sink kafka --brokers 127.0.0.1:9092              the demo's load, into Kafka
  tocsin-producer --sink kafka --brokers 127.0.0.1:9092 \\
      --spike-interval 25s --first-spike-after 2s --malformed 0.05   more spikes, and events that break consumers
  tocsin-producer --sink stdout --rate 1000 --limit 100000           a load test that ends

Two topics: customer_events, keyed by customer, and winning_bids, keyed by auction. The same options always give the
same events; --seed gives others. Every option can be set in the environment: --spike-interval is
TOCSIN_PRODUCER_SPIKE_INTERVAL. The command line wins. Times are seconds, or have a unit: 500ms, 25s, 2m, 1h.

exit status: 0 the schedule ended or the run was stopped, 1 failed, 2 wrong usage
"""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def main(arguments: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = _parser()
    given = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args([*_from_environment(parser, os.environ if environ is None else environ), *given])
    if options.sink is None and not options.dry_run:
        parser.error("choose where to send with --sink kafka or --sink stdout, or use --dry-run")
    if options.sink == "kafka" and not options.brokers and not options.dry_run:
        parser.error("--sink kafka needs --brokers HOST:PORT")
    try:
        plan = Plan(**{name: getattr(options, name) for name in Plan.__dataclass_fields__})
    except PlanError as error:
        parser.error(f"argument --{error.option.replace('_', '-')}: {error.reason}")
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr, force=True
    )
    try:
        if options.dry_run:
            _print(Schedule(plan))
        else:
            _send(Schedule(plan), options)
    except ReaderGoneError:
        # The output that Python still buffers would fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ProducerError as error:
        for one in (error.__context__, error):  # the first is why the run ended, if closing the sink failed too
            if isinstance(one, ProducerError):
                _log.error("%s", one)
        return 1
    return 0


def _send(schedule: Schedule, options: argparse.Namespace) -> None:
    metrics = Metrics()
    stop = threading.Event()

    def stopping(number: int, _: FrameType | None) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stopping)
    with ExitStack() as stack:
        stack.callback(lambda: _log.info("%s", metrics.summary()))
        if options.metrics_port is not None:
            stack.callback(serve(metrics, address=options.metrics_address, port=options.metrics_port))
        sink = stack.enter_context(closing(_sink(options, metrics, stop)))
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
    limit = schedule.plan.limit
    count = DRY_RUN_EVENTS if limit is None else limit
    try:
        for event in itertools.islice(schedule.events(start=time.time()), count):
            value = "null" if event.value is None else event.value[:200].decode(errors="backslashreplace")
            print(f"{event.at:9.3f} s  {event.kind:<9}  {event.topic:<15}  {event.key.decode():>4}  {value}")
        if limit is None:
            print(f"... and so on; --limit shows more than {count}")
        sys.stdout.flush()
    except OSError:
        raise ReaderGoneError("the reader of standard output has closed it") from None


def _from_environment(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> list[str]:
    """The environment as arguments. An empty variable counts as unset: that is how compose files pass one."""
    options = [action.option_strings[-1] for action in parser._actions]  # noqa: SLF001 - argparse has no public list
    texts = {option: environ.get(ENV_PREFIX + option[2:].replace("-", "_").upper()) for option in options}
    return [f"{option}={text}" for option, text in texts.items() if text]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tocsin-producer",
        description="Send demo events: deployments and auction bids at a steady rate, and spikes of one customer.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument_group("where to send").add_argument
    add("--sink", choices=("kafka", "stdout"), help="where to send")
    add("--brokers", metavar="HOST:PORT", help="Kafka brokers, separated by commas")
    add("--partitions", type=int, default=1, metavar="N", help="of topics that are created (default: 1)")
    text = "librdkafka settings, separated by commas or lines, such as security.protocol=sasl_ssl; may hold secrets"
    add("--kafka-option", type=_pairs, default=(), metavar="NAME=VALUE,...", help=text)
    text = "how long to wait for acknowledgements at the end (default: 10s)"
    add("--close-timeout", type=seconds, default="10s", metavar="TIME", help=text)
    text = f"print the schedule, {DRY_RUN_EVENTS} events or --limit, and send nothing"
    add("--dry-run", type=_boolean, nargs="?", const=True, default=False, metavar="BOOL", help=text)

    add = parser.add_argument_group("load").add_argument
    add("--seed", type=int, default=1, metavar="N", help="another seed gives other events (default: 1)")
    add("--customers", type=int, default=10, metavar="N", help="number of customers (default: 10)")
    text = "their names, separated by commas (default: A,B,C,D)"
    add("--organizations", type=_names, default="A,B,C,D", metavar="NAMES", help=text)
    text = "share of customers that deploy to the cloud (default: 0.2)"
    add("--cloud-share", type=float, default=0.2, metavar="SHARE", help=text)
    add("--rate", type=float, default=0.05, metavar="RATE", help="steady customer events a second (default: 0.05)")
    add("--spike-size", type=int, default=10, metavar="N", help="events in a spike (default: 10)")
    text = "time between spikes; 0 for none (default: 90s)"
    add("--spike-interval", type=seconds, default="90s", metavar="TIME", help=text)
    add("--first-spike-after", type=seconds, metavar="TIME", help="time of the first spike (default: one interval)")
    add("--bid-rate", type=float, default=0.2, metavar="RATE", help="winning bids a second (default: 0.2)")
    add("--limit", type=int, metavar="N", help="end after so many events (default: never)")

    title = "faults: extra events per regular event, 0 to 1 (default: 0)"
    add = parser.add_argument_group(title).add_argument
    add("--late", type=float, default=0.0, metavar="SHARE", help="regular events again, dated in the past")
    add("--late-by", type=seconds, default="10m", metavar="TIME", help="how far in the past (default: 10m)")
    add("--duplicate", type=float, default=0.0, metavar="SHARE", help="regular events again, byte for byte")
    add("--future", type=float, default=0.0, metavar="SHARE", help="regular events again, dated in the future")
    add("--future-by", type=seconds, default="1h", metavar="TIME", help="how far in the future (default: 1h)")
    add("--malformed", type=float, default=0.0, metavar="SHARE", help="events that are not valid")
    text = f"flaws of malformed events, separated by commas (default: {','.join(Flaw)})"
    add("--flaws", type=_flaws, default=",".join(Flaw), metavar="FLAWS", help=text)
    text = "size of an oversized event (default: 200000)"
    add("--oversized-bytes", type=int, default=200_000, metavar="N", help=text)

    add = parser.add_argument_group("operation").add_argument
    add("--metrics-port", type=int, metavar="PORT", help="serve /metrics on this port (default: do not)")
    text = "address to serve it on (default: 127.0.0.1)"
    add("--metrics-address", default="127.0.0.1", metavar="ADDRESS", help=text)
    text, levels = "lowest level that is logged (default: info)", ("debug", "info", "warning", "error")
    add("--log-level", type=str.lower, default="info", choices=levels, help=text)
    return parser


def seconds(text: str) -> float:
    """A time such as `500ms`, `25s`, `2m`, `1h` or a number of seconds."""
    number = text.rstrip("hms")
    try:
        value = float(number) * _UNITS[text[len(number) :] or "s"]
    except (ValueError, KeyError):
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 500ms, 25s or 2m")
    return value


def _boolean(text: str) -> bool:
    if text.lower() not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() in ("1", "true", "yes", "on")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _flaws(text: str) -> tuple[Flaw, ...]:
    try:
        return tuple(Flaw(name) for name in _names(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; choose from {', '.join(Flaw)}") from None


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    pairs = [part.partition("=") for part in text.split("\n" if "\n" in text else ",") if part.strip()]
    for number, (name, equals, _) in enumerate(pairs, start=1):
        if not equals or not name.strip():
            # Without the text, which may hold a password.
            raise argparse.ArgumentTypeError(f"entry {number} is not of the form NAME=VALUE")
    return tuple((name.strip(), value) for name, _, value in pairs)
