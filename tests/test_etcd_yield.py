"""What hands on the lead of etcd (roles/etcd/files/yield.py), with members that answer as etcd's gateway does."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.topology import ROOT

OWN, OTHER, THIRD = "11", "22", "33"
# Who it is does not matter here: no address of it is asked by TLS.
RUN = f"""
import runpy, ssl, sys
class Context(ssl.SSLContext):
    def load_cert_chain(self, identity): pass
ssl.create_default_context = lambda cafile: Context(ssl.PROTOCOL_TLS_CLIENT)
sys.argv = ["yield.py", *sys.argv[1:]]
runpy.run_path({str(ROOT / "roles/etcd/files/yield.py")!r}, run_name="__main__")
"""
SILENT = "http://127.0.0.1:1"


@pytest.fixture
def answers():
    """What each path is answered, which a test may change; the `url` of who answers, and what was `asked` by POST."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(*found["primary"])
            self.end_headers()

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found["asked"].append((self.path, body))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(found.get(self.path, {})).encode())

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = {"asked": [], "primary": (200,), "url": f"http://127.0.0.1:{server.server_port}"}
        for member in (OWN, OTHER, THIRD):
            found[f"/{member}/v3/maintenance/status"] = {"header": {"member_id": member}, "leader": OWN}
        urls = {member: {"clientURLs": [f"{found['url']}/{member}"]} for member in (OWN, OTHER, THIRD)}
        members = [{"ID": member, "name": f"data{member}", **urls[member]} for member in (OWN, OTHER, THIRD)]
        found[f"/{OWN}/v3/cluster/member/list"] = {"members": members}
        threading.Thread(target=server.serve_forever).start()
        yield found
        server.shutdown()


def handed_to(answers, etcd=None):
    """To whom it was handed on; it says so, and nothing else."""
    words = ["identity", "authorities", etcd or f"{answers['url']}/{OWN}", f"{answers['url']}/primary"]
    done = subprocess.run([sys.executable, "-c", RUN, *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    transfers = [body["targetID"] for path, body in answers["asked"] if path.endswith("/transfer-leadership")]
    assert done.stdout == "".join(f"data{member} leads\n" for member in transfers)
    return transfers


def test_who_leads_both_hands_on(answers):
    assert handed_to(answers) == [OTHER]


def test_who_does_not_lead_postgresql_goes_on(answers):
    answers["primary"] = (503,)
    assert handed_to(answers) == []


@pytest.mark.parametrize("status", [{"leader": OTHER}, {}])
def test_who_does_not_lead_etcd_has_nothing_to_hand_on(answers, status):
    answers[f"/{OWN}/v3/maintenance/status"] = {"header": {"member_id": OWN}, **status}
    assert handed_to(answers) == []


@pytest.mark.parametrize("status", [{"leader": THIRD}, {}])
def test_who_follows_another_or_nobody_is_passed_over(answers, status):
    answers[f"/{OTHER}/v3/maintenance/status"] = {"header": {"member_id": OTHER}, **status}
    assert handed_to(answers) == [THIRD]


@pytest.mark.parametrize("more", [{"clientURLs": [SILENT]}, {"clientURLs": []}])
def test_who_does_not_answer_or_has_not_come_yet_is_passed_over(answers, more):
    answers[f"/{OWN}/v3/cluster/member/list"]["members"][1] |= more
    assert handed_to(answers) == [THIRD]


def test_where_nobody_answers_there_is_nothing_to_hand_on(answers):
    assert handed_to(answers, etcd=SILENT) == []
