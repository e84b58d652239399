"""Each claim of docs/security.md has a test that shows it, or is advice."""

from __future__ import annotations

import re
from pathlib import Path

from click.testing import CliRunner

from pgqueue.cli import group
from tests.security.conftest import Roles, printed_roles

ROOT = Path(__file__).parents[2]
ADVICE = ""  # what somebody is to do, who it is about, or what a heading says
MATRIX = "security/test_matrix.py::test_what_a_role_may_do"
CLAIM = "security/test_attacks.py::test_a_guessed_claim_completes_nothing_and_tells_nothing"
OWNER = "security/test_end_to_end.py::test_migrating_as_the_migrator_leaves_all_to_the_owner"
PATHS = "security/test_search_path.py::test_no_statement_depends_on_anything_in_public"
LIMITS = "security/test_limits.py::test_what_enqueue_refuses"
# A claim, or what is enough of it to know it by -> the test that shows it.
SHOWN = {
    "What pgqueue trusts": ADVICE, "who": ADVICE, "could": ADVICE, "what stands against it": ADVICE,
    "may insert a job": ADVICE, "run any *registered* task": "security/test_registry.py::test_nothing_is_imported_for_a_row",
    "a name in a row is never imported": "security/test_registry.py::test_nor_in_a_process",
    "Arguments are JSON, checked": "poison/test_rows.py::test_what_cannot_be_read_is_dead_at_once",
    "Treat them like": ADVICE, "the same": ADVICE,
    "fill the table": "security/test_limits.py::test_only_the_job_over_the_limit_is_dead",
    "limits at enqueue": LIMITS,
    "enforces all of them but": "security/test_limits.py::test_what_a_producer_may_enqueue_of_lists_and_objects",
    "with column grants the worker enforces": "security/test_limits.py::test_only_the_job_over_the_limit_is_dead",
    "may read the table": ADVICE, "read arguments and error texts": "security/test_attacks.py::test_what_read_only_sees_of_a_job",
    "put a reference to a secret": ADVICE,
    "errors are stored without the values": "secrets/test_redaction.py::test_a_secret_is_taken_out_of_what_is_stored",
    "give people `readonly`": "security/test_attacks.py::test_what_read_only_sees_of_a_job",
    "took over a worker": ADVICE, "complete, fail or delete jobs": MATRIX, "it cannot change the task": MATRIX,
    "may call `pgqueue.complete_job()`": "security/test_attacks.py::test_complete_job_is_for_workers",
    "complete a running job early": CLAIM, "only with its claim": CLAIM, "a wrong guess raises": CLAIM,
    "any role of the server": ADVICE, "PostgreSQL has no privileges": "security/test_attacks.py::test_notify_has_no_privileges",
    "notifications are empty": "faults/test_flood.py::test_a_flood_of_notifications_is_one_claim_at_a_time",
    "polling finds what they miss": "faults/test_listen.py::test_polling_goes_on_without_notifications",
    "may write arguments": ADVICE, "slow to mask": "security/test_masking_costs.py::test_no_shape_many_times_over_is_expensive_to_mask",
    "masking is linear": "security/test_masking_costs.py::test_no_arguments_are_expensive_to_mask",
    "over a bound is masked": "security/test_masking_costs.py::test_what_is_over_the_bounds_is_masked_whole",
    "no command can show": "security/test_command_line.py::test_a_row_that_cannot_be_shown_is_said_to_be_so",
    "each list says so": "security/test_command_line.py::test_a_row_that_cannot_be_shown_is_said_to_be_so",
    "escaped before it reaches": "security/test_output.py::test_no_command_prints_it_raw",
    "another user of the machine": ADVICE, "connect to the PostgreSQL of": "unit/test_embedded.py::test_only_who_started_it_gets_in",
    "it asks for a random password": "unit/test_embedded.py::test_only_who_started_it_gets_in",
    "its socket, data and log": "unit/test_embedded.py::test_only_who_started_it_gets_in",
    "leave a `pgqueue.toml`": "security/test_command_line.py::test_a_file_of_another_user_is_refused",
    "or may write to is refused": "security/test_command_line.py::test_a_file_that_others_may_write_to_is_refused",
    "import the configured app": "security/test_command_line.py::test_only_what_shows_arguments_imports_the_configured_app",
    "reads the server's log": ADVICE, "see arguments in error details": ADVICE, "the settings below": ADVICE,
    "What the database cannot tell apart": ADVICE, "two applications with the same role": ADVICE, "A dashboard": ADVICE,
    "there is none yet": ADVICE, "prints SQL that makes them": "security/conftest.py::make", "review it, and run it": ADVICE,
    "Run it again": ADVICE, "it is the same however often": "security/test_page.py::test_the_roles_are_the_same_however_often_they_are_made",
    "They cannot log in": "security/test_page.py::test_roles_cannot_log_in_and_have_no_passwords",
    "grant them to the users": ADVICE, "`--prefix` changes": "security/test_end_to_end.py::test_names_that_cannot_be",
    "default prefix is the name": "security/test_page.py::test_the_prefix_is_the_name_of_the_schema",
    "role": ADVICE, "may": ADVICE, "may not": ADVICE, "log in": "security/test_page.py::test_roles_cannot_log_in_and_have_no_passwords",
    "`pgqueue_owner`": ADVICE, "everything in the schema": OWNER, "the functions run as it": "security/test_page.py::test_functions_run_as_the_owner",
    "`pgqueue_migrator`": ADVICE, "`pgqueue migrate`;": OWNER, "it is a member of the owner": OWNER,
    "`pgqueue_producer`": ADVICE, "enqueue through the library": "security/test_end_to_end.py::test_every_way_to_enqueue",
    "see the settings of queues": "security/test_end_to_end.py::test_a_producer_meets_the_bounds_of_a_declared_queue",
    "read the status and the result": "security/test_attacks.py::test_who_may_enqueue_sees_results",
    "emit, read arguments, insert a running": MATRIX, "`pgqueue_sql_producer`": ADVICE, "`select pgqueue.enqueue(...)`": MATRIX,
    "emit, read or write any table": MATRIX, "`pgqueue_emitter`": ADVICE, "`select pgqueue.emit(...)`": MATRIX,
    "enqueue, read or write any table": MATRIX, "`pgqueue_worker`": ADVICE, "emit;": MATRIX,
    "run, fail, rescue and prune jobs": "security/test_end_to_end.py::test_a_worker_process", "enqueue;": MATRIX,
    "write the schedules its code declares": "security/test_end_to_end.py::test_a_worker_process",
    "change task, arguments, queue or retries": MATRIX, "pause": MATRIX, "`pgqueue_readonly`": ADVICE,
    "`pgqueue list`, the statistics": "security/test_end_to_end.py::test_the_command_line_of_those_who_look",
    "see arguments, errors, claims": "security/test_attacks.py::test_what_read_only_sees_of_a_job",
    "`pgqueue_operator`": ADVICE, "look at jobs, retry": "security/test_end_to_end.py::test_the_command_line_of_an_operator",
    "set queues": "security/test_end_to_end.py::test_the_command_line_of_an_operator",
    "add, change, run and remove schedules": "security/test_end_to_end.py::test_the_command_line_of_an_operator",
    "see claims, enqueue in any other way": MATRIX, "The narrower producer": ADVICE, "picks ids of the sequence": MATRIX,
    "so much is needed for `COPY`": ADVICE, "An operator is trusted": ADVICE, "set a job's status by plain SQL": MATRIX,
    "`ctx.transaction()` is a transaction of": "security/test_end_to_end.py::test_a_worker_process",
    "grant that user what handlers read": ADVICE,
    "A handler that completes its job": "security/test_attacks.py::test_complete_job_is_for_workers",
    "`grant execute on function": "security/test_attacks.py::test_complete_job_is_for_workers", "It can complete nothing": CLAIM,
    "A producer of one queue only": "security/test_attacks.py::test_a_producer_of_one_queue", "a function of your own": ADVICE,
    "A row-level policy": ADVICE, "a setting of the session is no identity": ADVICE,
    "Functions of the schema, workers": "security/test_attacks.py::test_the_search_path_cannot_be_hijacked",
    "each statement names its functions in full": "security/test_search_path.py::test_every_function_of_postgresql_is_qualified",
    "So nobody who may create": PATHS,
    "A program that lacks a grant": "security/test_end_to_end.py::test_enqueue_without_its_grant_says_which",
    "a worker says it at its start": "security/test_end_to_end.py::test_a_worker_without_its_grants_says_which",
    "Test the roles": ADVICE, "**TLS**": ADVICE, "`sslmode=verify-full`": ADVICE, "`hostssl` lines": ADVICE,
    "**Passwords**": ADVICE, "in `PGPASSFILE` or the environment": ADVICE,
    "pgqueue never prints them": "secrets/test_dsn.py::test_the_log_of_a_worker", "**Logs**": ADVICE,
    "arguments are parameters of statements": "secrets/test_redaction.py::test_a_failing_statement_logs_no_row",
    "`log_parameter_max_length": ADVICE, "statements your own code": ADVICE, "A violated constraint": ADVICE,
    "`log_error_verbosity": ADVICE, "checks before it inserts": LIMITS, "**Limits**": ADVICE, "`statement_timeout` and": ADVICE,
}  # fmt: skip


def claims() -> list[str]:
    """Each claim: of a sentence, or of a cell of a table, what stands between its full stops, colons and semicolons."""
    text = re.sub(r"```.*?```", "", (ROOT / "docs/security.md").read_text("utf-8"), flags=re.S)
    found, paragraph = [], ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            if set(line) - set("|- "):
                for cell in line.strip("|").split(" | "):
                    found += re.split(r"(?<=[.;])\s+", cell.strip())
        elif line and not line.startswith("#"):
            paragraph += f"\n{line}" if line.startswith("- ") else f" {line}"
        else:
            found += re.split(r"(?<=[.:;])\s+(?=[A-Za-z`*(-])|\n", paragraph.strip())
            paragraph = ""
    return [each for each in found if each]


def fits(part: str, claim: str) -> bool:
    """One word must be all of a claim: of a longer one it would say too little."""
    return (
        part == claim
        if part.isalpha() or part in ("may not", "the same", "log in")
        else part in claim
    )


def test_each_claim_has_its_test() -> None:
    told = claims()
    assert [each for each in told if not any(fits(part, each) for part in SHOWN)] == []
    assert [part for part in SHOWN if not any(fits(part, each) for each in told)] == []


def test_the_tests_exist() -> None:
    for test in filter(None, SHOWN.values()):
        file, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / "tests" / file).read_text("utf-8"), test


def test_roles_cannot_log_in_and_have_no_passwords(roles: Roles) -> None:
    with roles.connect("admin") as conn:
        found = conn.execute(
            "select rolcanlogin, rolpassword from pg_authid where rolname = any (%s)",
            [list(roles.names.values())],
        ).fetchall()
    assert found == [(False, None)] * len(roles.names)


def test_the_roles_are_the_same_however_often_they_are_made(roles: Roles) -> None:
    def made() -> list[tuple[object, ...]]:
        with roles.connect("admin") as conn:
            return conn.execute(
                "select c.oid::regclass::text, c.relacl::text, c.relowner::regrole::text from pg_class c"
                " where c.relnamespace = 'pgqueue'::regnamespace"
                " union all select p.oid::regprocedure::text, p.proacl::text, p.proowner::regrole::text"
                " from pg_proc p where p.pronamespace = 'pgqueue'::regnamespace order by 1"
            ).fetchall()

    before = made()
    with roles.connect("admin") as conn:
        conn.execute(printed_roles(roles.prefix).encode())
    assert made() == before


def test_the_prefix_is_the_name_of_the_schema() -> None:
    told = CliRunner().invoke(group, ["sql", "roles", "--schema", "jobs"])
    assert "jobs_worker" in told.output
    assert "pgqueue_worker" not in told.output


def test_functions_run_as_the_owner(roles: Roles) -> None:
    with roles.connect("admin") as conn:
        others = conn.execute(
            "select p.proname from pg_proc p where p.pronamespace = 'pgqueue'::regnamespace"
            " and p.prosecdef and p.proowner::regrole::text <> %s",
            [roles.names["owner"]],
        ).fetchall()
        definers = conn.execute(
            "select count(*) from pg_proc p where p.pronamespace = 'pgqueue'::regnamespace and p.prosecdef"
        ).fetchone()
    assert others == []
    assert definers is not None
    assert definers[0] > 0
