"""docker-compose.yml: no engine is needed to see that its steps wait for one another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    document = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    services: dict[str, Any] = document["services"]
    return services


def test_the_database_is_postgresql_18_with_a_health_check(services: dict[str, Any]) -> None:
    postgres = services["postgres"]
    assert postgres["image"] == "postgres:18"
    assert "pg_isready" in postgres["healthcheck"]["test"][-1]


def test_the_schema_waits_for_the_database_and_the_worker_for_the_schema(
    services: dict[str, Any],
) -> None:
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    completed = {"migrate": {"condition": "service_completed_successfully"}}
    assert services["worker"]["depends_on"] == completed


@pytest.mark.parametrize("name", ["migrate", "worker"])
def test_the_commands_exist(services: dict[str, Any], name: str) -> None:
    command = [sys.executable, "-m", "pgqueue", *services[name]["command"], "--help"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("name", ["migrate", "worker"])
def test_the_dsn_leads_to_the_database(services: dict[str, Any], name: str) -> None:
    dsn = conninfo_to_dict(services[name]["environment"]["PGQUEUE_DSN"])
    assert dsn["host"] in services
    assert dsn["password"] == services["postgres"]["environment"]["POSTGRES_PASSWORD"]


def test_the_image_holds_what_it_copies() -> None:
    for line in (ROOT / "Dockerfile").read_text("utf-8").splitlines():
        if line.startswith("COPY "):
            *sources, _target = line.split()[1:]
            assert all((ROOT / source).exists() for source in sources), line
