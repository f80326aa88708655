"""Files that run code when they are read as pickles, YAML or Python: harmless code, which leaves a mark."""

import base64
import io
import json
import os
import pickle
import zipfile


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def went_off(mark):
    """Whether the code was run; the mark is removed."""
    if not mark.exists():
        return False
    mark.rmdir()
    return True


def in_yaml(mark):
    """A value that makes a folder where YAML's loader is not a safe one."""
    return f"!!python/object/apply:os.mkdir ['{mark}']"


def in_python(mark):
    """An expression that makes a folder where it is evaluated."""
    return f"__import__('os').mkdir({str(mark)!r})"


def members_of(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_members(path, members):
    """As a file without a digest, as those of earlier versions are, and strangers' may be."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            if name != "sha256":
                archive.writestr(name, content)


def with_payload(path, field, mark):
    """An agent's file whose setting makes a folder; its description is what it was."""
    members = members_of(path)
    data = json.loads(members["data"])
    described = data[field] if isinstance(data[field], dict) else {}
    data[field] = {**described, ":serialized:": base64.b64encode(pickle.dumps(Payload(mark))).decode()}
    write_members(path, {**members, "data": json.dumps(data)})


def weights_with_payload(mark):
    """What torch writes of a dict with a payload."""
    import torch as th

    file = io.BytesIO()
    th.save({"weight": th.zeros(1), "more": Payload(mark)}, file)
    return file.getvalue()
