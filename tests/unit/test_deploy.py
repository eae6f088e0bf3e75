"""What is shipped to run nodes with: valid in its own terms, and in step with the program."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import kubernetes_validate  # type: ignore[import-untyped]
import promql_parser
import pytest
import yaml
from tests.conftest import REPOSITORY
from tools.address_lint import find_addresses
from tools.draw_dashboard import PAGE, PANELS, draw_page
from tools.render_chart import INSTALL, RENDERED, compute_digest
from typer.main import get_command

from hansa.foreground.cli.application import app
from hansa.interface.ceremony import Ceremony, check_ceremony, read_document
from hansa.network.comet.process import TESTED_VERSION
from hansa.node.home import load_config, load_genesis

DEPLOY: Final = REPOSITORY / "deploy"
PROGRAM: Final = "/opt/hansa/venv/bin/hansa"
KUBERNETES: Final = ("1.30", "1.34")
ORGANISATIONS: Final = ("ash", "beech", "cedar", "damson")


def read_yaml(name: str) -> Any:
    """A file of deploy/."""
    return yaml.safe_load((DEPLOY / name).read_text())


def list_files() -> list[Path]:
    """Every file of deploy/ that belongs to the repository."""
    return [path for path in sorted(DEPLOY.rglob("*")) if path.is_file() and not _is_made(path)]


def _is_made(path: Path) -> bool:
    return path.is_relative_to(DEPLOY / "homes")


def test_no_address_is_shipped() -> None:
    """Neither an archive nor an index is named by its address, and images go by name alone."""
    for path in list_files():
        text = path.read_text()
        assert [] == find_addresses(str(path.relative_to(REPOSITORY)), text)
        assert [] == re.findall(r"(?:FROM|image:)\s+\w+://", text)


# Kubernetes.


def list_manifests() -> list[dict[str, Any]]:
    """What the chart renders to."""
    return [document for document in yaml.safe_load_all(RENDERED.read_text()) if document]


def test_the_rendered_chart_is_of_the_chart() -> None:
    """A chart that was changed has to be rendered again."""
    first = RENDERED.read_text().splitlines()[0]
    assert first.endswith(compute_digest()), f"run {INSTALL}, then python tools/render_chart.py"


@pytest.mark.parametrize("version", KUBERNETES)
def test_the_rendered_chart_is_valid(version: str) -> None:
    """By the schemas of Kubernetes, with no field that they don't know."""
    kinds = []
    for manifest in list_manifests():
        kubernetes_validate.validate(manifest, version, strict=True)
        kinds.append(manifest["kind"])
    assert ["NetworkPolicy", "Service", "Service", "StatefulSet"] == sorted(kinds)


def test_no_two_pods_have_one_key() -> None:
    """One replica, never two, as a user without rights and on a file system that stays as it is."""
    (one,) = [m for m in list_manifests() if m["kind"] == "StatefulSet"]
    assert 1 == one["spec"]["replicas"]
    pod = one["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert ["ALL"] == container["securityContext"]["capabilities"]["drop"]


def list_options(*path: str) -> set[str]:
    """The options of a command."""
    import typer

    command: Any = get_command(app)
    context = typer.Context(command)
    for name in path:
        command = command.get_command(context, name)
    return {option for parameter in command.params for option in parameter.opts}


def test_the_commands_shipped_exist() -> None:
    """Every option that a unit, a chart, a script or an image gives is one of the program's."""
    text = " ".join(path.read_text() for path in list_files()).replace("\\\n", " ")
    text = re.sub(r"\s+", " ", text)
    calls = re.findall(r"hansa ((?:node |genesis )?[a-z]+)((?: --?[\w-]+[^-;&]*)+)", text)
    assert len(calls) > 8
    for words, options in calls:
        if words in ("start", "doctor", "node init", "node adopt") or words.startswith("genesis "):
            given = set(re.findall(r"(?<![\w-])--[a-z0-9][a-z0-9-]*", options))
            assert set() == given - list_options(*words.split()), words
    (one,) = [m for m in list_manifests() if m["kind"] == "StatefulSet"]
    first, *arguments = one["spec"]["template"]["spec"]["containers"][0]["args"]
    assert set() == {argument.partition("=")[0] for argument in arguments} - list_options(first)


# Containers.


def test_the_image_is_built_as_it_says() -> None:
    """CometBFT of the version that is tested, Python of the release, and nobody's root."""
    lines = (DEPLOY / "Containerfile").read_text()
    assert f"cometbft@v{TESTED_VERSION}" in lines
    assert "--require-hashes" in lines
    *_, user = re.findall(r"^USER (\S+)", lines, re.MULTILINE)
    assert "10001:10001" == user
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", lines, re.MULTILINE)
    assert [] == [
        name for names in copied for name in names.split() if not (REPOSITORY / name).exists()
    ]


def test_each_organisation_has_its_own() -> None:
    """Home, secret and port are nobody else's; all run the same image without rights."""
    compose = read_yaml("compose.yaml")
    nodes = {name: compose["services"][name] for name in ORGANISATIONS}
    for name, node in nodes.items():
        assert [f"./homes/{name}:/var/lib/hansa"] == node["volumes"]
        assert [{"source": name, "target": "hansa-passphrase"}] == node["secrets"]
        assert {"file": f"./homes/{name}.passphrase"} == compose["secrets"][name]
        assert (["ALL"], True, "hansa") == (node["cap_drop"], node["read_only"], node["image"])
    assert len(nodes) == len({node["ports"][0] for node in nodes.values()})
    (scrape,) = read_yaml("prometheus/prometheus.yml")["scrape_configs"]
    assert {f"{name}:8080" for name in nodes} == set(scrape["static_configs"][0]["targets"])


@pytest.mark.slow
def test_the_four_are_founded(tmp_path: Path) -> None:
    """The script of the rehearsal makes four homes of one network, each with its own keys."""
    names = ("ash", "beech")
    folder = tmp_path / "homes"
    done = subprocess.run(
        ["sh", str(DEPLOY / "found.sh"), str(folder), *names],
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert 0 == done.returncode, done.stderr
    genesis = check_ceremony(read_document(folder / "network/ceremony.json", Ceremony))
    for name in names:
        assert genesis == load_genesis(folder / name)
        comet = load_config(folder / name).comet
        assert comet is not None
        assert "0.0.0.0:26656" == comet.settings.p2p_address
        assert 1 == len(comet.settings.persistent_peers)
        mode = stat.S_IMODE((folder / f"{name}.passphrase").stat().st_mode)
        assert 0o600 == mode
    keys = {(folder / name / "keys.json").read_bytes() for name in names}
    assert 2 == len(keys)


# systemd.


def test_the_units_are_valid(tmp_path: Path) -> None:
    """By systemd's own judgement, with the program where it is here."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.fail("judging the units takes systemd: apt-get install systemd", pytrace=False)
    units = []
    for path in sorted((DEPLOY / "systemd").iterdir()):
        text = path.read_text()
        assert PROGRAM in text or path.suffix == ".timer"
        unit = tmp_path / path.name
        unit.write_text(text.replace(PROGRAM, sys.executable))
        units.append(str(unit).replace("@.", "@ash."))
        (tmp_path / path.name.replace("@.", "@ash.")).write_text(unit.read_text())
    done = subprocess.run(
        [analyze, "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    assert (0, "") == (done.returncode, done.stderr)


# Prometheus and Grafana.


def list_rules() -> list[dict[str, Any]]:
    """Every alert."""
    groups = read_yaml("prometheus/alerts.yml")["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_the_alerts_are_valid() -> None:
    """Each has an expression that Prometheus can read, and says what to do."""
    names = [rule["alert"] for rule in list_rules()]
    assert len(names) == len(set(names))
    for rule in list_rules():
        assert {"alert", "expr", "labels", "annotations"} <= rule.keys() <= {
            "alert", "expr", "for", "labels", "annotations",
        }  # fmt: skip
        promql_parser.parse(rule["expr"])
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert {"summary", "action"} == rule["annotations"].keys()


def test_the_dashboard_is_drawn_from_its_list() -> None:
    """`python tools/draw_dashboard.py` has nothing to change, and no graph lies over another."""
    assert draw_page() == PAGE.read_text()
    panels = json.loads(PAGE.read_text())["panels"]
    assert len(PANELS) == len({(one["gridPos"]["x"], one["gridPos"]["y"]) for one in panels})
    for panel in panels:
        for target in panel["targets"]:
            promql_parser.parse(target["expr"])
