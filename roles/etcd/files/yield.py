#!/usr/bin/python3 -Es
"""Lets another member lead etcd where this host leads what etcd keeps the lock of.

A new leader of etcd gives each lock all its time again. If the host of both is lost, the lock outlives its holder by
that and by etcd's election; if they are two hosts, only by what was left of it.
"""

import contextlib
import http.client
import json
import ssl
import sys
import urllib.request

SECONDS = 3


def main(identity, authorities, etcd, yields_to):
    """`etcd` is the URL of the member on this host."""
    context = ssl.create_default_context(cafile=authorities)
    context.load_cert_chain(identity)

    def ask(url, body=None):
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(url, data, timeout=SECONDS, context=context) as answer:
            return answer.read()

    def said(member, path, body):
        return json.loads(ask(f"{member}/v3/{path}", body))

    status = said(etcd, "maintenance/status", {})
    own = status["header"]["member_id"]
    # Who leads is left out where nobody does.
    if status.get("leader") != own:
        return
    try:
        ask(yields_to)
    except OSError:
        return
    for member in said(etcd, "cluster/member/list", {})["members"]:
        # Who has no URL has not come yet, and who knows another leader or none is cut off.
        if member["ID"] == own or not member.get("clientURLs"):
            continue
        with contextlib.suppress(OSError):
            if said(member["clientURLs"][0], "maintenance/status", {}).get("leader") != own:
                continue
            said(etcd, "maintenance/transfer-leadership", {"targetID": member["ID"]})
            print(f"{member['name']} leads")
            return


if __name__ == "__main__":
    # Where nobody answers there is nothing to hand on.
    with contextlib.suppress(OSError, http.client.HTTPException):
        main(*sys.argv[1:])
