"""The files under deploy/: valid where there is a schema, and true to the program they start."""

from __future__ import annotations

import fnmatch
import functools
import os
import re
import shlex
import shutil
import signal
import subprocess
import tomllib
import urllib.request
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from typer.testing import CliRunner

from sidecar import cli
from sidecar.errors import Unreachable, UsageError
from sidecar.terminal.environment import prepare, read_secret_files
from sidecar.wire.units import size_bytes
from sidecar.worker import app, inflight, logs
from sidecar.worker.health import HealthServer
from sidecar.worker.settings import Settings
from tests.deploy.harness import containers, manifest, manifests, pod, tool

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
KUBERNETES: Final = DEPLOY / "kubernetes"
COMPOSE: Final = DEPLOY / "compose.yaml"
CONTAINERFILE: Final = DEPLOY / "Containerfile"
SYSTEMD: Final = DEPLOY / "systemd"
UNIT: Final = SYSTEMD / "sidecar.service"
COMMON: Final = SYSTEMD / "common.conf"
SERVICES: Final = sorted(SYSTEMD.glob("*.service"))
README: Final = DEPLOY / "README.md"
OVERLAYS: Final = ("sidecar", "standalone")
FLAVOURS: Final = ("compose", *OVERLAYS, "systemd")
MIB: Final = 1 << 20


def _text_files() -> list[Path]:
    tracked = (p for p in DEPLOY.rglob("*") if p.is_file())
    return [p for p in tracked if "secrets" not in p.relative_to(DEPLOY).parts]


def _accepts(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ERROR" not in done.stdout


def _compose() -> Any:
    return yaml.safe_load(COMPOSE.read_text())


def _unit(key: str, unit: Path = UNIT) -> list[str]:
    """Return the values of a key, in the drop-in of all units, too."""
    lines = (unit.read_text() + COMMON.read_text()).splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{key}=")]


def _instructions(word: str) -> list[str]:
    joined = CONTAINERFILE.read_text().replace("\\\n", " ")
    return [line.partition(" ")[2] for line in joined.splitlines() if line.startswith(f"{word} ")]


def _environment(flavour: str) -> dict[str, str]:
    """What the worker is told by one flavour of deployment."""
    if flavour == "compose":
        found: Any = _compose()["services"]["sidecar"]["environment"]
    elif flavour in OVERLAYS:
        found = manifest(flavour, "ConfigMap")["data"]
        name = manifest(flavour, "ConfigMap")["metadata"]["name"]
        assert containers(flavour)["sidecar"]["envFrom"] == [{"configMapRef": {"name": name}}]
    else:
        found = dict(line.split("=", 1) for line in _unit("Environment"))
    assert all(isinstance(value, str) for value in found.values()), "only text is an environment"
    return dict(found)


# --- schemas ------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_accepts_the_manifests(overlay: str, tmp_path: Path) -> None:
    """Every object is valid, with no unknown field, from the first release with sidecars on.

    But for ServiceMonitor, whose schema is the operator's: `kubernetes-validate` has none.
    """
    objects = yaml.safe_load_all(manifests(overlay))
    own = [one for one in objects if one["apiVersion"] != "monitoring.coreos.com/v1"]
    file = tmp_path / "manifests.yaml"
    file.write_text(yaml.safe_dump_all(own))
    for version in ("1.29", "1.33", "1.37"):
        _accepts(tool("kubernetes-validate"), "-k", version, "--strict", str(file))


def test_compose_accepts_the_file() -> None:
    """The Compose file keeps the Compose specification's schema."""
    _accepts(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(COMPOSE))


def test_hadolint_accepts_the_containerfile() -> None:
    """The Containerfile has nothing that hadolint warns of."""
    _accepts(tool("hadolint"), "--no-color", str(CONTAINERFILE))


def _installed(directory: Path) -> dict[str, str]:
    """Lay the units out as README.md installs them; return what has systemd look there."""
    for unit in (*SERVICES, *SYSTEMD.glob("*.timer")):
        # They must name a program that is there, and the real one is not installed here.
        (directory / unit.name).write_text(
            unit.read_text().replace("/opt/sidecar/bin/sidecar", "/bin/true")
        )
    for drop_ins in ("sidecar.service.d", "sidecar-.service.d"):
        (directory / drop_ins).mkdir()
        shutil.copy(COMMON, directory / drop_ins)
    return {"SYSTEMD_UNIT_PATH": f"{directory}:"}


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    """No unit has an unknown setting; each service is confined about as far as one can be."""
    analyze, paths = tool("systemd-analyze"), _installed(tmp_path)
    units = [path for path in tmp_path.iterdir() if path.is_file()]
    assert len(units) == 5
    verified = subprocess.run(
        [analyze, "verify", "--man=no", *map(str, units)], check=False, capture_output=True,
        text=True, env={**os.environ, **paths},
    )  # fmt: skip
    assert (verified.returncode, verified.stderr) == (0, "")
    for service in SERVICES:
        whole = tmp_path / f"whole-{service.name}"
        whole.write_text((tmp_path / service.name).read_text() + COMMON.read_text())
        _accepts(analyze, "security", "--offline=true", "--threshold=15", "--no-pager", str(whole))


def test_each_timer_has_its_service() -> None:
    """A timer starts the service of its name, which a restart of the worker does not start."""
    timers = {path.stem for path in SYSTEMD.glob("*.timer")}
    assert (
        timers == {path.stem for path in SERVICES} - {"sidecar"} == {"sidecar-audit", "sidecar-gc"}
    )
    for name in timers:
        service = (SYSTEMD / f"{name}.service").read_text()
        assert "Type=oneshot" in service
        assert "[Install]" not in service
        assert "WantedBy=timers.target" in (SYSTEMD / f"{name}.timer").read_text()


# --- signing --------------------------------------------------------------------------------------

SIGNING: Final = {"SIDECAR_SIGN_KEY", "SIDECAR_TRUST"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_takes_the_component_for_signing(overlay: str, tmp_path: Path) -> None:
    """The worker has key and trusted keys where its settings say; other containers have neither."""
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kustomization.yaml").write_text(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
        f"resources: [../kubernetes/{overlay}]\ncomponents: [../kubernetes/signing]\n"
    )
    done = subprocess.run(
        [tool("kubectl"), "kustomize", str(tmp_path / "mine")], check=False, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    objects = {one["kind"]: one for one in yaml.safe_load_all(done.stdout)}
    settings = objects["ConfigMap"]["data"]
    spec = objects[{"sidecar": "StatefulSet", "standalone": "Deployment"}[overlay]]["spec"]
    spec = spec["template"]["spec"]
    every = {one["name"]: one for one in [*spec.get("initContainers", []), *spec["containers"]]}
    mounts = {one["mountPath"]: one["name"] for one in every["sidecar"]["volumeMounts"]}
    key, trust = Path(settings["SIDECAR_SIGN_KEY"]), settings["SIDECAR_TRUST"]
    assert (mounts[str(key.parent)], mounts[trust]) == ("sign-key", "trust")
    assert {"sidecar-redis", "source", "fleet", "sign-key", "trust"} == set(mounts.values())
    volumes = {one["name"]: one for one in spec["volumes"]}
    assert volumes["sign-key"]["secret"]["defaultMode"] == 0o440  # what `--sign-key` takes
    assert {"sign-key", "trust"} <= set(volumes)
    for name, one in every.items():
        if name != "sidecar":
            assert "sign-key" not in {mount["name"] for mount in one["volumeMounts"]}


def test_compose_with_signing_has_key_and_trusted_keys() -> None:
    """The override adds to the file what its variables name, for the worker and who verifies."""
    override = DEPLOY / "compose.signing.yaml"
    _accepts(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(override))
    services = yaml.safe_load(override.read_text())["services"]
    told = services["sidecar"]["environment"]
    assert set(told) == SIGNING
    assert set(_compose()["services"]["sidecar"]["secrets"]) < set(services["sidecar"]["secrets"])
    assert told["SIDECAR_SIGN_KEY"] == "/run/secrets/sign-key"
    verify = services["tail"]["environment"]["SIDECAR_VERIFY"]
    for name, directory in (("sidecar", told["SIDECAR_TRUST"]), ("tail", verify)):
        assert services[name]["volumes"] == [f"./trust:{directory}:ro"]


def test_systemd_with_signing_has_key_and_trusted_keys(tmp_path: Path) -> None:
    """The drop-in is one that systemd takes, and what it names README.md installs."""
    analyze, paths = tool("systemd-analyze"), _installed(tmp_path)
    dropped = SYSTEMD / "signing.conf"
    shutil.copy(dropped, tmp_path / "sidecar.service.d")
    verified = subprocess.run(
        [analyze, "verify", "--man=no", str(tmp_path / "sidecar.service")], check=False,
        capture_output=True, text=True, env={**os.environ, **paths},
    )  # fmt: skip
    assert (verified.returncode, verified.stderr) == (0, "")
    lines = [line for line in dropped.read_text().splitlines() if line.startswith("Environment=")]
    told = dict(line.removeprefix("Environment=").split("=", 1) for line in lines)
    assert told == {"SIDECAR_SIGN_KEY": "%d/sign-key", "SIDECAR_TRUST": "/etc/sidecar-trust"}
    installed = README.read_text()
    assert f"-t {told['SIDECAR_TRUST']} " in installed
    assert "fleet-2026 /etc/sidecar/sign-key" in installed


# --- configuration ------------------------------------------------------------------------------


def test_every_variable_is_an_option() -> None:
    """Each SIDECAR_ variable that a file sets or a page names is read by some command."""
    named = {
        name.removesuffix("_FILE")
        for path in _text_files()
        for name in re.findall(r"SIDECAR_[A-Z][A-Z_]*", path.read_text())
    }
    assert named
    prepare(dict.fromkeys(named, "x"), cli.app)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_program_takes_the_configuration(
    flavour: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sidecar run` starts with what a deployment sets, on a Redis and two stores of its own."""
    environment = _environment(flavour)
    secret = tmp_path / "redis-url"
    secret.write_text("redis://sidecar:secret@valkey:6379/0\n")
    files = [name for name in environment if name.endswith("_FILE")]
    read_secret_files(environment := environment | dict.fromkeys(files, str(secret)))
    seen: list[Settings] = []

    def run(settings: Settings, *_: object, **__: object) -> int:
        seen.append(settings)
        return 0

    monkeypatch.setattr(app, "run", run)
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    result = CliRunner().invoke(cli.app, ["run"], env=environment)

    assert result.exit_code == 0, result.output
    assert seen[0].redis == "redis://sidecar:secret@valkey:6379/0"
    assert seen[0].http
    assert seen[0].source_store
    assert seen[0].fleet_store
    assert seen[0].source_store != seen[0].fleet_store


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_artifacts_fit_in_the_memory_that_is_granted(flavour: str) -> None:
    """The worker with all the artifacts that may be on their way fits under the memory limit."""
    if flavour == "compose":
        limit = _compose()["services"]["sidecar"]["mem_limit"]
    elif flavour in OVERLAYS:
        limit = containers(flavour)["sidecar"]["resources"]["limits"]["memory"] + "B"
    else:
        (limit,) = _unit("MemoryMax")
    assert size_bytes(limit) >= 256 * MIB + inflight.MOST_BYTES


def test_probes_ask_what_the_worker_serves() -> None:
    """Every probe's path is answered, and its port is the one the worker is told to serve at."""
    worker = containers("sidecar")["sidecar"]
    probes = [worker[kind] for kind in ("startupProbe", "livenessProbe", "readinessProbe")]
    ports = {port["name"]: port["containerPort"] for port in worker["ports"]}
    asked = {(ports[p["httpGet"]["port"]], p["httpGet"]["path"], "sidecar") for p in probes}
    check = " ".join(_compose()["services"]["sidecar"]["healthcheck"]["test"])
    for port, path in re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", check):
        asked.add((int(port), path, "compose"))
    assert {flavour for *_, flavour in asked} == {"sidecar", "compose"}

    server = HealthServer("127.0.0.1:0", stuck=list, states=dict, metrics=lambda: b"")
    try:
        for port, path, flavour in asked:
            assert _environment(flavour)["SIDECAR_HTTP"] == f"0.0.0.0:{port}"
            url = f"http://127.0.0.1:{server.port}{path}"
            with urllib.request.urlopen(url, timeout=60) as answer:
                assert answer.status == 200
    finally:
        server.close()


def test_liveness_and_start_ask_no_dependency() -> None:
    """Only readiness may look beyond the process: a restart fixes no Redis."""
    worker = containers("sidecar")["sidecar"]
    assert worker["startupProbe"]["httpGet"]["path"] == "/livez"
    assert worker["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert worker["readinessProbe"]["httpGet"]["path"] == "/readyz"


# --- confinement and secrets --------------------------------------------------------------------


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_containers_in_a_pod_are_confined(overlay: str) -> None:
    """No container runs as root, writes its root file system or keeps a capability."""
    context = pod(overlay)["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(overlay).values():
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]
        assert not container["image"].endswith(":latest")


def test_a_worker_is_the_same_in_each_pod() -> None:
    """Both overlays run the container of the base, and the conduct of its pod."""
    base = yaml.safe_load((KUBERNETES / "base" / "worker.yaml").read_text())["template"]["spec"]
    for overlay in OVERLAYS:
        (worker,), context = base["containers"], base["securityContext"]
        found = containers(overlay)["sidecar"]
        assert {**found, "image": ""} == {**worker, "image": ""} | (
            {"restartPolicy": "Always"} if overlay == "sidecar" else {}
        )
        assert pod(overlay)["securityContext"] == context


def test_what_stands_alone_stands_by_too() -> None:
    """Two workers, one of which may go; what selects pods selects these, by the port they have."""
    deployment = manifest("standalone", "Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["replicas"] == 2
    assert manifest("standalone", "PodDisruptionBudget")["spec"]["minAvailable"] == 1
    for kind, path in (
        ("PodDisruptionBudget", ("selector", "matchLabels")), ("Service", ("selector",)),
        ("NetworkPolicy", ("podSelector", "matchLabels")),
    ):  # fmt: skip
        selected = functools.reduce(lambda found, key: found[key], path,
                                    manifest("standalone", kind)["spec"])  # fmt: skip
        assert selected.items() <= labels.items(), kind
    service, monitor = (manifest("standalone", kind) for kind in ("Service", "ServiceMonitor"))
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= service["metadata"]["labels"].items()
    (port,) = service["spec"]["ports"]
    (endpoint,) = monitor["spec"]["endpoints"]
    (let_in,) = manifest("standalone", "NetworkPolicy")["spec"]["ingress"]
    assert endpoint["port"] == port["name"]
    names = {one["name"] for one in containers("standalone")["sidecar"]["ports"]}
    assert {port["targetPort"], let_in["ports"][0]["port"]} == names


def test_services_of_compose_are_confined() -> None:
    """No service runs as root, writes its root file system, keeps a capability or is unbounded."""
    for service in _compose()["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert int(service["user"].split(":")[0]) > 0
        assert service["mem_limit"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_the_worker_is_a_native_sidecar_and_shares_the_source_store() -> None:
    """The worker is started first and restarted by itself, and sees what the producer Puts."""
    producer, worker = (containers("sidecar")[name] for name in ("producer", "sidecar"))
    assert worker["restartPolicy"] == "Always"
    source = _environment("sidecar")["SIDECAR_SOURCE_STORE"].removeprefix("file://")
    mounts = [
        [(m["name"], m.get("subPath")) for m in c["volumeMounts"] if m["mountPath"] == source]
        for c in (producer, worker)
    ]
    assert mounts[0] == mounts[1] != []
    claims = manifest("sidecar", "StatefulSet")["spec"]["volumeClaimTemplates"]
    volumes = {v["name"] for v in (*pod("sidecar")["volumes"], *(c["metadata"] for c in claims))}
    for container in (producer, worker):
        assert {m["name"] for m in container["volumeMounts"]} <= volumes


def test_each_client_holds_its_own_url_only() -> None:
    """In a pod and in Compose, worker, producer and controller have a Redis user each."""
    volumes = pod("sidecar")["volumes"]
    secret = {v["name"]: v["secret"]["secretName"] for v in volumes if "secret" in v}
    held = [
        {secret[m["name"]]: m["mountPath"] for m in c["volumeMounts"] if m["name"] in secret}
        for c in containers("sidecar").values()
    ]
    assert [list(h) for h in held] == [["sidecar-redis"], ["producer-redis"]]
    assert _environment("sidecar")["SIDECAR_REDIS_FILE"] == f"{held[0]['sidecar-redis']}/redis-url"
    readme = README.read_text()
    assert all(f"create secret generic {name} " in readme for name in secret.values())

    users = {"sidecar": "sidecar", "emit": "producer", "tail": "controller"}
    for service, user in users.items():
        found = _compose()["services"][service]
        assert found["secrets"] == [f"{user}-redis-url"]
        assert found["environment"]["SIDECAR_REDIS_FILE"] == f"/run/secrets/{user}-redis-url"


def test_compose_mounts_secrets_that_are_made(tmp_path: Path) -> None:
    """Every secret of the Compose file is one of the files that secrets.sh writes."""
    made = tmp_path / "secrets"
    subprocess.run(["sh", DEPLOY / "secrets.sh", made], check=True, capture_output=True)
    secrets = _compose()["secrets"]
    files = {secret["file"] for secret in secrets.values()}
    assert files <= {f"secrets/{path.name}" for path in made.iterdir()}
    used = {name for s in _compose()["services"].values() for name in s["secrets"]}
    assert used == set(secrets)
    address = (made / "sidecar-redis-url").read_text().strip().rpartition("@")[2]
    assert address.partition(":")[0] in _compose()["services"]
    assert "/secrets/" in (DEPLOY / ".gitignore").read_text().splitlines()


def test_valkey_keeps_what_the_guarantees_rest_on() -> None:
    """The server of the Compose file writes to disk, evicts nothing and wants a login."""
    command = _compose()["services"]["valkey"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "always"
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--proto-max-bulk-len"] == "1mb"
    assert options["--aclfile"] == "/run/secrets/users.acl"


# --- image and unit -----------------------------------------------------------------------------


def test_the_image_runs_the_worker_as_a_user() -> None:
    """The image ends as a numeric user that is not root, and passes signals to the worker."""
    final = CONTAINERFILE.read_text().rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert _instructions("ENTRYPOINT") == ['["sidecar"]']
    assert _instructions("CMD") == ['["run"]']
    assert _instructions("STOPSIGNAL") == ["SIGTERM"]
    assert {f"{pod('sidecar')['securityContext'][key]}" for key in ("runAsUser", "fsGroup")} == {
        "10001"
    }
    assert _compose()["services"]["sidecar"]["user"] == "10001:10001"


def test_the_image_holds_only_what_is_pinned() -> None:
    """Dependencies come by hash, the project without any, and the Python is a supported one."""
    installs = [i for i in _instructions("RUN") if "pip install" in i]
    assert len(installs) == 2
    pinned = "--require-hashes --only-binary :all: -r requirements/${REQUIREMENTS}.txt"
    assert pinned in installs[0]
    assert _instructions("ARG") == ["REQUIREMENTS=run"]
    assert all((ROOT / "requirements" / f"{name}.txt").is_file() for name in ("run", "otel"))
    assert "pip install --no-deps --no-build-isolation ." in installs[1]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for image in _instructions("FROM"):
        version = re.match(r"docker\.io/library/python:(\d+\.\d+)-slim", image)
        assert version
        assert f"Programming Language :: Python :: {version[1]}" in project["classifiers"]


def test_the_build_sees_what_it_needs_and_nothing_else() -> None:
    """The context holds what the project's build reads, and neither secrets nor history."""
    lines = (DEPLOY / "Containerfile.dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert lines[1] == "*"
    sources = [w for c in _instructions("COPY") if "--from" not in c for w in shlex.split(c)[:-1]]
    assert set(sources) == allowed
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {
        "pyproject.toml",
        pyproject["project"]["readme"],
        *pyproject["project"]["license-files"],
        *pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"],
    }
    assert needed <= allowed
    for secret in ("deploy/secrets/sidecar-redis-url", ".git/config", ".env", ".venv/bin/python"):
        assert not any(fnmatch.fnmatch(secret, f"{pattern}*") for pattern in allowed)


def test_the_unit_gives_up_only_on_a_wrong_configuration() -> None:
    """A Redis that is away is tried again for ever; a configuration that is wrong is not."""
    (final,) = _unit("RestartPreventExitStatus")
    assert final.split() == [str(UsageError.exit_code)]
    assert Unreachable.exit_code != UsageError.exit_code
    assert _unit("Restart") == ["always"]
    assert _unit("StartLimitIntervalSec") == ["0"]


def test_the_units_take_their_url_from_a_credential() -> None:
    """The password is in no environment: the variable names the credential's file."""
    for unit in SERVICES:
        (credential,) = _unit("LoadCredential", unit)
        name = credential.partition(":")[0]
        assert f"SIDECAR_REDIS_FILE=%d/{name}" in _unit("Environment", unit)
    state = {f"/var/lib/{name}" for name in _unit("StateDirectory")[0].split()}
    environment = _environment("systemd")
    for store in ("SIDECAR_SOURCE_STORE", "SIDECAR_FLEET_STORE"):
        assert environment[store].removeprefix("file://") in state


def test_the_page_names_every_file() -> None:
    """README.md tells of each file that is here."""
    readme = README.read_text()
    for path in _text_files():
        if path not in (README, DEPLOY / ".gitignore"):
            whole = DEPLOY / "kubernetes" in path.parents  # an overlay is named by its directory
            assert f"`{(path.parent if whole else path).relative_to(DEPLOY)}" in readme
