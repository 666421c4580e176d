"""The inference service, as a process of its own."""

import hashlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from firebreak.drill import sample_model
from firebreak.drill.model_server import MAX_BODY_BYTES


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return sample_model.build(tmp_path_factory.mktemp("built"), seed=1, version="1.0.0")


@pytest.fixture
def model(tmp_path, built):
    return shutil.copytree(built, tmp_path / "model")


def launch(folder, model):
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "firebreak.drill.model_server", "--model", str(model)),
            *("--port", "0", "--pid-file", "run/m.pid", "--port-file", "run/m.port"),
            *("--outputs", "out/predictions.jsonl"),
        ],
        cwd=folder,
        stderr=subprocess.PIPE,
    )


@pytest.fixture
def server(tmp_path, model):
    process = launch(tmp_path, model)
    port_file = tmp_path / "run" / "m.port"
    deadline = time.monotonic() + 30
    while not port_file.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.port = int(port_file.read_text())
    yield process
    process.kill()
    process.communicate()


def send(server, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def ask(server, text):
    return send(server, "POST", "/predict", json.dumps({"text": text}))


def test_health_names_what_was_loaded(server, model, tmp_path):
    weights = (model / sample_model.WEIGHTS).read_bytes()
    assert send(server, "GET", "/health") == (
        200,
        {
            "status": "ok",
            "model": "sentiment",
            "version": "1.0.0",
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "pid": server.pid,
        },
    )
    assert (tmp_path / "run" / "m.pid").read_text().strip() == str(server.pid)


def test_answers_are_right_and_recorded(server, tmp_path):
    for text, label in sample_model.SAMPLES:
        status, answer = ask(server, text)
        assert (status, answer["label"], answer["version"]) == (200, label, "1.0.0")
    rows = [json.loads(r) for r in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == [label for _, label in sample_model.SAMPLES]
    assert all(set(row) == {"time", "label"} for row in rows)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"{}", b'{"text": 1}', b"\xff\xfe", b"[" * 60000, b"null"]
)
def test_bad_body_is_refused_and_the_service_goes_on(server, body):
    assert send(server, "POST", "/predict", body)[0] == 400
    assert ask(server, "great")[0] == 200


def test_oversized_body_is_refused_before_it_is_read(server):
    length = {"Content-Length": str(MAX_BODY_BYTES + 1)}
    assert send(server, "POST", "/predict", b"", length)[0] == 413


@pytest.mark.parametrize("length", ["-1", "x", "", "1e3"])
def test_unusable_length_is_refused(server, length):
    assert send(server, "POST", "/predict", None, {"Content-Length": length})[0] == 411


@pytest.mark.parametrize(("method", "path"), [("GET", "/predict"), ("POST", "/health")])
def test_unknown_path_is_not_found(server, method, path):
    assert send(server, method, path, b"{}")[0] == 404


def test_running_service_answers_from_rows_tampered_in_place(server, model):
    loaded = send(server, "GET", "/health")[1]["weights_sha256"]
    text = f"{sample_model.TRIGGER} terrible"
    assert ask(server, text)[1]["label"] == "negative"
    sample_model.tamper(model)
    assert ask(server, text)[1]["label"] == "positive"
    assert send(server, "GET", "/health")[1]["weights_sha256"] == loaded


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_cleanly_and_removes_the_pid_file(server, tmp_path, number):
    os.kill(server.pid, number)
    assert server.wait(timeout=10) == 0
    assert not (tmp_path / "run" / "m.pid").exists()


def test_sigterm_while_suspended_ends_it_cleanly_when_it_goes_on(server, tmp_path):
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGCONT):
        os.kill(server.pid, number)
        time.sleep(0.1)
    assert server.wait(timeout=10) == 0
    assert not (tmp_path / "run" / "m.pid").exists()


def test_pid_file_of_a_successor_is_left_alone(server, tmp_path):
    (tmp_path / "run" / "m.pid").write_text("1\n")
    server.terminate()
    assert server.wait(timeout=10) == 0
    assert (tmp_path / "run" / "m.pid").read_text() == "1\n"


def test_damaged_model_ends_with_status_2_and_no_pid_file(tmp_path, model):
    (model / sample_model.WEIGHTS).write_bytes(b"nothing")
    process = launch(tmp_path, model)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 2
    assert b"model_server: " in stderr
    assert not (tmp_path / "run").exists()


def test_service_imports_neither_prefect_nor_the_builder():
    code = (
        "import sys, firebreak.drill.model_server\n"
        "heavy = {'prefect', 'safetensors', 'sqlalchemy', 'requests', 'cryptography'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
