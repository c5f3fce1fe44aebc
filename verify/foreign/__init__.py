"""What is true of projects that know nothing of Quintet: those of the overlay molecule/foreign/foreign.yml."""

import json

import requests

from verify import FIRST, TOPOLOGY, contract, node

WORKER = TOPOLOGY.hosts("worker")[0]
BROKER = TOPOLOGY.hosts("rabbitmq")[0]
APP_HOSTS = contract("app_hosts")
PROJECTS = {project["name"]: project for project in contract("projects")}


def ask(project, path, method="GET", **more):
    """The answer to a request, by the project's host name, as it comes over the network to the first web host."""
    headers = {"Host": PROJECTS[project]["web"]["host_names"][0]} | more.pop("headers", {})
    url = f"http://{contract('host_address')}:{contract('http_port')}{path}"
    with requests.Session() as session:
        session.trust_env = False
        return session.request(method, url, headers=headers, timeout=30, allow_redirects=False, **more)


def rabbitmqctl(*arguments):
    """The JSON of a rabbitmqctl command."""
    return json.loads(node(BROKER).check_output("rabbitmqctl --quiet --formatter json " + " ".join(arguments)))


def sign(text, picture=None):
    """Fill in the guest book's form as a browser does; the path of the new entry."""
    page = ask("guestbook", "/")
    token = page.text.split('name="csrfmiddlewaretoken" value="')[1].split('"')[0]
    cookie = "; ".join(f"{cookie.name}={cookie.value}" for cookie in page.cookies)
    fields = {"csrfmiddlewaretoken": token, "text": text}
    files = {"picture": picture} if picture else None
    answer = ask("guestbook", "/", "POST", data=fields, files=files, headers={"Cookie": cookie})
    assert answer.status_code == 302, answer.text
    return answer.headers["Location"]


def visits():
    """How many saw the guest book's page, as it says itself."""
    return int(ask("guestbook", "/").text.split("Visits: <b>")[1].split("<")[0])


__all__ = ["APP_HOSTS", "BROKER", "FIRST", "PROJECTS", "WORKER", "ask", "rabbitmqctl", "sign", "visits"]
