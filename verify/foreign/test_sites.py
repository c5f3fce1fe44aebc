"""The pages of foreign projects, by their host names, as they come over the network."""

import re

import pytest

from verify import node
from verify.foreign import FIRST, PROJECTS, ask, sign, visits


@pytest.mark.parametrize(
    ("project", "path", "text"),
    [
        ("guestbook", "/", "<h1>Guest book</h1>"),
        ("shop", "/shop/", '"interface": "http"'),
        ("talks", "/orga/login/", "pretalx"),
        ("ledger", "/", '"bookings"'),
    ],
)
def test_each_answers_by_its_host_name(project, path, text):
    answer = ask(project, path)
    assert answer.status_code == 200, answer.text
    assert text in answer.text


@pytest.mark.parametrize("project", ["guestbook", "talks", "ledger"])
def test_a_foreign_host_name_is_refused(project):
    # What the project says itself, asked on its own socket; nginx gives an unknown name to the first site.
    code = (
        "import http.client, socket\n"
        "connection = http.client.HTTPConnection('evil.example')\n"
        "connection.sock = socket.socket(socket.AF_UNIX)\n"
        f"connection.sock.connect('/run/gunicorn-{project}.sock')\n"
        "connection.request('GET', '/')\n"
        "print(connection.getresponse().status)"
    )
    assert node(FIRST).check_output("python3 -c %s", code) == "400"
    assert ask("guestbook", "/", headers={"Host": "evil.example"}).status_code == 400


def test_debug_is_off():
    answer = ask("guestbook", "/no-such-page/")
    assert answer.status_code == 404
    assert "URLconf" not in answer.text


def test_prefix_is_in_front_of_every_path():
    assert '"interface"' not in ask("shop", "/").text
    answer = ask("shop", "/shop/", "POST", data={"item": "tea"})
    assert re.fullmatch(r"/shop/orders/\d+/", answer.headers["Location"])
    assert ask("shop", answer.headers["Location"]).json()["item"] == "tea"
    assert answer.headers["Location"] in ask("shop", "/shop/").json()["orders"]


def test_a_health_path_may_answer_404():
    health = PROJECTS["shop"]["web"]["health"]
    assert [ask("shop", "/shop" + health["path"]).status_code] == health["statuses"]


def test_nginx_serves_static_files():
    sheet = re.search(r'href="(/static/[^"]+\.css)"', ask("guestbook", "/").text)[1]
    answer = ask("guestbook", sheet)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/css")
    assert "sans-serif" in answer.text


def test_a_project_serves_its_own_static_files():
    sheet = re.search(r'href="?(/static/[^" >]+\.css)', ask("talks", "/orga/login/").text)[1]
    answer = ask("talks", sheet)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/css")
    assert "immutable" in answer.headers["Cache-Control"]


def test_an_upload_is_kept_and_served():
    content = bytes(range(256)) * 64
    picture = ask("guestbook", sign("picture", ("été.bin", content))).json()["picture"]
    assert picture.startswith("/media/")
    assert ask("guestbook", picture).content == content
    kept = node(FIRST).check_output("find /var/lib/guestbook/media -type f -size -17k -size +15k")
    assert picture.rpartition(".")[2] in kept


def test_processes_share_the_cache():
    # Hard-coded it is one of each process.
    first = visits()
    assert [visits() for _ in range(20)] == list(range(first + 1, first + 21))
