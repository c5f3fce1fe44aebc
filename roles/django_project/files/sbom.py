"""The software bill of materials of a release: CycloneDX 1.6, as JSON.

A library for it would cost each bundle a third of a second and the controller eight packages. The tests hold what is
written here against the standard's schema.
"""

import hashlib
import json
import uuid
from importlib.metadata import Distribution
from urllib.parse import quote


def licenses(metadata):
    """What a package says about its license: an SPDX expression, or else all the names that it gives."""
    if expression := metadata.get("License-Expression"):
        return [{"expression": expression}]
    names = [name for name in metadata.get_all("License", []) if name != "UNKNOWN" and "\n" not in name.strip()]
    classifiers = (one.split(" :: ") for one in metadata.get_all("Classifier", []))
    names += [parts[-1] for parts in classifiers if parts[0] == "License" and len(parts) > 2]
    return [{"license": {"name": name}} for name in dict.fromkeys(name.strip() for name in names) if name]


def component(info):
    """The package of a dist-info directory. Its RECORD has the digests of its files; its own stands for all."""
    metadata = Distribution.at(info).metadata
    name, version = metadata["Name"], metadata["Version"]
    purl = f"pkg:pypi/{name.replace('_', '-').lower()}@{quote(version, safe='')}"
    record = {
        "type": "file",
        "bom-ref": f"{purl}#RECORD",
        "name": f"{info.name}/RECORD",
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256((info / "RECORD").read_bytes()).hexdigest()}],
    }
    known = licenses(metadata)
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        **({"licenses": known} if known else {}),
        "components": [record],
    }


def sbom(name, release, packages):
    """The document, as text, for a release of the project `name` with the packages in a directory."""
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": name, "name": name, "version": release}},
        "components": [component(info) for info in sorted(packages.glob("*.dist-info"))],
    }
    # Equal content has an equal number.
    document["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(document)).urn
    return json.dumps(document, indent=2) + "\n"
