"""Each statement of docs/security.md has a test that shows it, or is advice."""

from __future__ import annotations

import re
from pathlib import Path

from tests.security.conftest import Roles

ROOT = Path(__file__).parents[2]
ADVICE = ""  # what somebody is to do, or what a heading says
# A part of a statement -> the test that shows it.
SHOWN = {
    "What pgqueue trusts": ADVICE, "who | could": ADVICE, "role | may": ADVICE,
    "run any *registered* task": "security/test_registry.py::test_nothing_is_imported_for_a_row",
    "put in what a worker cannot read": "security/test_limits.py::test_only_the_job_over_the_limit_is_dead",
    "read arguments and error texts": "security/test_attacks.py::test_what_read_only_sees_of_a_job",
    "complete, fail or delete jobs": "security/test_matrix.py::test_what_a_role_may_do",
    "complete a running job early": "security/test_attacks.py::test_a_guessed_claim_completes_nothing_and_tells_nothing",
    "`LISTEN` on any channel": "security/test_attacks.py::test_notify_has_no_privileges",
    "slow to mask": "security/test_masking_costs.py::test_no_arguments_are_expensive_to_mask",
    "no command can show": "security/test_output.py::test_no_command_prints_it_raw",
    "another user of the machine": "unit/test_embedded.py::test_only_who_started_it_gets_in",
    "leave a `pgqueue.toml`": "security/test_command_line.py::test_a_file_of_another_user_is_refused",
    "reads the server's log": ADVICE, "What the database cannot tell apart": ADVICE, "A dashboard": ADVICE,
    "review it, and run it": ADVICE, "Run it again": "security/conftest.py::make",
    "They cannot log in": "security/test_page.py::test_roles_cannot_log_in_and_have_no_passwords",
    "`--prefix` changes the names": "security/test_end_to_end.py::test_names_that_cannot_be",
    "`pgqueue_owner` |": "security/test_end_to_end.py::test_migrating_as_the_migrator_leaves_all_to_the_owner",
    "`pgqueue_migrator` |": "security/test_end_to_end.py::test_migrating_as_the_migrator_leaves_all_to_the_owner",
    "`pgqueue_producer` |": "security/test_attacks.py::test_who_may_enqueue_sees_results",
    "`pgqueue_sql_producer` |": "security/test_matrix.py::test_what_a_role_may_do",
    "`pgqueue_emitter` |": "security/test_matrix.py::test_what_a_role_may_do",
    "`pgqueue_worker` |": "security/test_end_to_end.py::test_a_worker_process",
    "`pgqueue_readonly` |": "security/test_end_to_end.py::test_the_command_line_of_those_who_look",
    "`pgqueue_operator` |": "security/test_end_to_end.py::test_the_command_line_of_an_operator",
    "The narrower producer": ADVICE, "picks ids of the sequence": "security/test_matrix.py::test_what_a_role_may_do",
    "An operator is trusted": "security/test_matrix.py::test_what_a_role_may_do",
    "`ctx.transaction()` is": "security/test_end_to_end.py::test_a_worker_process",
    "A handler that completes its job": "security/test_attacks.py::test_complete_job_is_for_workers",
    "`grant execute on function": "security/test_attacks.py::test_complete_job_is_for_workers",
    "It can complete nothing": "security/test_attacks.py::test_a_guessed_claim_completes_nothing_and_tells_nothing",
    "A producer of one queue only": "security/test_attacks.py::test_a_producer_of_one_queue", "A row-level policy": ADVICE,
    "Functions of the schema, workers": "security/test_attacks.py::test_the_search_path_cannot_be_hijacked",
    "On other connections": "security/test_search_path.py::test_every_function_of_postgresql_is_qualified",
    "So nobody who may create": "security/test_search_path.py::test_no_statement_depends_on_anything_in_public",
    "A program that lacks a grant": "security/test_end_to_end.py::test_enqueue_without_its_grant_says_which",
    "Test the roles": ADVICE, "**TLS**": ADVICE, "`sslmode=verify-full`": ADVICE, "`hostssl` lines": ADVICE,
    "**Passwords**": "secrets/test_dsn.py::test_the_log_of_a_worker", "**Logs**": ADVICE, "`log_parameter_max_length": ADVICE,
    "A violated constraint": ADVICE, "`log_error_verbosity": ADVICE,
    "checks before it inserts": "security/test_limits.py::test_what_enqueue_refuses", "**Limits**": ADVICE, "`statement_timeout` and": ADVICE,
}  # fmt: skip


def statements() -> list[str]:
    """Each row of a table, and each sentence besides."""
    text = re.sub(r"```.*?```", "", (ROOT / "docs/security.md").read_text("utf-8"), flags=re.S)
    found, paragraph = [], ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            found += [line] if set(line) - set("|- ") else []
        elif line and not line.startswith("#"):
            paragraph += f"\n{line}" if line.startswith("- ") else f" {line}"
        else:
            found += re.split(r"(?<=[.:;])\s+(?=[A-Z`*(-])|\n", paragraph.strip())
            paragraph = ""
    return [each for each in found if each]


def test_each_statement_has_its_test() -> None:
    told = statements()
    assert [each for each in told if not any(part in each for part in SHOWN)] == []
    assert [part for part in SHOWN if not any(part in each for each in told)] == []


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
