"""`tocsin init` on a real PostgreSQL: what it asks, writes, checks and shows."""

import stat
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import yaml
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from support.conversation import conversation
from support.postgres import Postgres
from tocsin.cli import main

SCHEMA = """
CREATE TABLE customers (customer_id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE orders (order_id int PRIMARY KEY, customer_id int REFERENCES customers, due_at timestamptz,
  amount numeric);
INSERT INTO customers SELECT n, 'customer ' || n FROM generate_series(1, 3) n;
INSERT INTO orders SELECT n, 1 + n % 3, now() - n * interval '1 minute', n * 1.5 FROM generate_series(1, 6) n;
CREATE VIEW late_orders AS SELECT o.order_id, c.name AS customer,
  floor(extract(epoch FROM now() - o.due_at) / 60)::int AS minutes, o.amount
  FROM orders o JOIN customers c USING (customer_id) WHERE o.due_at < now();
CREATE VIEW stock AS
  SELECT * FROM (VALUES ('A', 'nut', 3), ('A', 'bolt', 9), ('B', 'nut', 3)) s (shelf, item, left_over);
CREATE VIEW broken AS SELECT 1 / (order_id - order_id) AS x FROM orders;
CREATE VIEW repeated AS SELECT * FROM (VALUES ('A', 1.5), ('A', 1.5)) s (shelf, load);
CREATE TABLE all_lines (region text, "order" int, line int, missing int, PRIMARY KEY (region, "order", line));
INSERT INTO all_lines
  SELECT r, o, n, 3 FROM unnest('{eu,us}'::text[]) r, generate_series(1, 2) o, generate_series(1, 2) n;
CREATE VIEW lines AS SELECT * FROM all_lines WHERE missing > 0;
CREATE TABLE visits AS SELECT n AS id, 'page ' || n % 3 AS page FROM generate_series(1, 150000) n;
ANALYZE visits;
"""
PASSWORD = "sesame-42"


@pytest.fixture(scope="module")
def shop(server: Postgres) -> Iterator[str]:
    """The connection string of a database with views."""
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE init_shop")
        admin.execute(sql.SQL("CREATE ROLE init_reader LOGIN PASSWORD {}").format(PASSWORD))
    try:
        with psycopg.connect(server.dsn("init_shop"), autocommit=True) as made:
            made.execute(SCHEMA)
            made.execute("GRANT SELECT ON late_orders, stock TO init_reader")
        yield server.dsn("init_shop")
    finally:
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute("DROP DATABASE init_shop WITH (FORCE)")
            admin.execute("DROP ROLE init_reader")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "PGHOST", "PGPASSWORD", "TOCSIN_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def as_reader(dsn: str) -> str:
    return f"host={conninfo_to_dict(dsn)['host']} user=init_reader password={PASSWORD} dbname=init_shop"


def alert(file: Path, name: str) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load(file.read_text())["alerts"][name]
    return found


def test_answers_with_enter_write_a_configuration_that_check_accepts(shop: str, folder: Path) -> None:
    with conversation("init", cwd=folder) as terminal:
        terminal.answer("Server [", as_reader(shop).replace("init_shop", "nosuch"))
        terminal.until("does not exist")
        terminal.answer("Server [", as_reader(shop))
        terminal.until("late_orders  view, 6 rows")
        for question in ("What to watch", "Key", "Labels", "Value"):
            terminal.answer(question, "")
        terminal.answer("Where to send notifications", "mail")
        terminal.until("none of console, webhook")
        terminal.answer("Where to send notifications", "webhook")
        terminal.answer("Address of the webhook", "http://127.0.0.1:9/hook/swordfish")
        terminal.answer("File to write", "")
        assert terminal.ended() == 0, terminal.text
    shown = terminal.text.partition("wrote ")[2]
    assert "the servers agree" in shown
    assert '"customer": "customer 2"' in shown
    assert "swordfish" not in shown
    text = (folder / "tocsin.yaml").read_text()
    assert len(text.splitlines()) < 30
    assert PASSWORD not in text + shown
    assert "swordfish" not in text
    assert alert(folder / "tocsin.yaml", "late_orders") == {
        "source": "database",
        "relation": "late_orders",
        "key": ["order_id"],
        "labels": ["order_id", "customer"],
        "value": "minutes",
        "ignore": ["minutes"],
        "notify": ["webhook"],
    }
    assert stat.S_IMODE((folder / "tocsin.password").stat().st_mode) == 0o600
    assert main(["check", "--online"]) == 0


def test_choices_of_the_user_are_kept(shop: str, folder: Path) -> None:
    with conversation("init", "--dsn", shop, cwd=folder) as terminal:
        terminal.answer("What to watch", "broken")
        terminal.until("division by zero")
        terminal.answer("What to watch", "stock, late_orders")
        terminal.answer("Key", "shelf, nosuch")
        terminal.until("no column nosuch")
        terminal.answer("Key", "item,shelf")
        terminal.answer("Labels", "shelf")
        terminal.answer("Value", "-")
        for question in ("Key", "Labels", "Value", "Where to send"):
            terminal.answer(question, "")
        terminal.answer("File to write", "shop.yaml")
        assert terminal.ended() == 0, terminal.text
    chosen = alert(folder / "shop.yaml", "stock")
    assert (chosen["key"], chosen["labels"], chosen.get("value")) == (["item", "shelf"], ["shelf"], None)
    assert alert(folder / "shop.yaml", "late_orders")
    assert "fired stock shelf=A" in terminal.text


def test_enter_takes_the_value_out_of_a_key_of_all_columns(shop: str, folder: Path) -> None:
    with conversation("init", "--dsn", shop, cwd=folder) as terminal:
        terminal.answer("What to watch", "repeated, lines")
        terminal.answer("Key: columns that identify a row [shelf]", "")
        terminal.answer("Labels", "")
        terminal.answer("Value (- for none) [load]", "")
        terminal.answer("Key: columns that identify a row [region,order,line]", "order,line")
        for answer in ("Labels (- for none) [order,line,region]", "Value (- for none) [missing]", "Where to send"):
            terminal.answer(answer, "")
        terminal.answer("File to write", "")
        assert terminal.ended() == 0, terminal.text
    assert "# all columns: none is unique" in (folder / "tocsin.yaml").read_text()


def test_existing_file_is_kept_unless_the_user_agrees(shop: str, folder: Path) -> None:
    file = folder / "tocsin.yaml"
    file.write_text("mine")
    command = ("init", "--dsn", shop, "--relation", "stock", "--channel", "console", "-o", "tocsin.yaml")
    assert main([*command, "--yes"]) == 1
    for answer, kept in (("", True), ("y", False)):
        with conversation(*command, cwd=folder) as terminal:
            for question in ("Key", "Labels", "Value"):
                terminal.answer(question, "")
            terminal.answer("tocsin.yaml exists. Overwrite it? [n]", answer)
            terminal.ended()
        assert (file.read_text() == "mine") is kept


def test_ctrl_c_at_a_question_leaves_nothing(shop: str, folder: Path) -> None:
    with conversation("init", "--dsn", shop, cwd=folder) as terminal:
        assert terminal.interrupt("What to watch") == 130
    assert "Traceback" not in terminal.text
    assert not list(folder.iterdir())


def test_script_gets_the_file_on_standard_output(
    shop: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password is a variable then, and what people read is on standard error."""
    url = "url=http://127.0.0.1:9/swordfish"
    assert main(["init", "--yes", "--dsn", as_reader(shop), "--channel", "webhook", "--set", url]) == 0
    printed = capsys.readouterr()
    assert yaml.safe_load(printed.out)["sources"]["database"]["password"] == "${PGPASSWORD}"
    assert PASSWORD not in printed.out + printed.err
    assert "swordfish" not in printed.out + printed.err
    assert "set the variable PGPASSWORD" in printed.err
    assert "watching late_orders, the first of 2" in printed.err
    assert '"order_id": "1"' in printed.err
    Path("tocsin.yaml").write_text(printed.out)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.setenv("WEBHOOK_URL", "http://127.0.0.1:9/")
    assert main(["check", "--online"]) == 0


def test_large_table_is_estimated_and_not_notified_at_the_start(shop: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--yes", "--dsn", shop, "--relation", "visits", "-o", "tocsin.yaml"]) == 0
    text = Path("tocsin.yaml").read_text()
    assert "# table, about 150,000 rows" in text
    assert "# unique in the first 10,000 rows" in text
    assert (alert(Path("tocsin.yaml"), "visits")["labels"], "initial: silent" in text) == (["page"], True)
    assert "let a view with a WHERE select them" in capsys.readouterr().err


def test_request_is_shown_while_the_receiver_is_down(shop: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [f"--set={one}" for one in ("host=127.0.0.1", "port=9", "from=a@example.com", "to=b@example.com")]
    assert main(["init", "--yes", "--dsn", shop, "--relation", "stock", "--channel", "email", *settings]) == 1
    read = capsys.readouterr().err
    assert "to do: the configuration:" in read
    assert '"subject": "' in read


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--dsn", "DSN", "--relation", "nosuch"], "there is no nosuch that this role may read; there are broken,"),
        (["--dsn", "DSN", "--channel", "teams"], "'teams' is none of console, webhook"),
        (["--dsn", "DSN", "--relation", "stock", "--channel", "webhook"], "needs --set url=..."),
        (["--dsn", "DSN", "--relation", "stock", "--channel", "webhook", "--set", "url"], "write KEY=TEXT"),
        (["--dsn", "DSN", "--relation", "stock", "--channel", "console", "--set", "colour=red"], "colour"),
        (["--dsn", "DSN", "--relation", "broken"], "division by zero"),
        (["--dsn", "postgresql://127.0.0.1:1/x"], "refused"),
        (["--dsn", "postgresql://u:sesame-42@h:port/x"], "the port in the connection string"),
        (
            ["--dsn", "postgresql://127.0.0.1:1/x", "-o", "nowhere/t.yaml"],
            "there is no folder nowhere",
        ),
        ([], "name the server: --dsn"),
    ],
)
def test_wrong_arguments_are_refused_before_a_file_is_written(
    arguments: list[str], reason: str, shop: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [shop if one == "DSN" else one for one in arguments]
    assert main(["init", "--yes", "-o", "tocsin.yaml", *given]) in (1, 2)
    error = capsys.readouterr().err
    assert reason in error
    assert PASSWORD not in error
    assert not list(folder.iterdir())
