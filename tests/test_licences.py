"""Licences of all that ``pip install .[all]`` brings: permissive ones, and weak copyleft by name and with a reason."""

import re
from email.message import Message
from importlib.metadata import PackageNotFoundError, distribution, metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

#: by SPDX's identifiers. MPL-2.0 binds the files that it is on alone
ALLOWED = {
    *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0"),
    *("HPND", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Unlicense", "Zlib"),
}
#: what older metadata says, in a classifier or in words, and which licence that is
WORDS = {
    r"apache( software)?( license)?,?( (version )?2(\.0)?)?": "Apache-2.0",
    r"(the |new |3-clause )?bsd([ -]3-clause)?( license)?": "BSD-3-Clause",
    r"(the )?mit( license)?": "MIT",
    r"mozilla public license 2\.0 \(mpl 2\.0\)": "MPL-2.0",
    r"(python software foundation|psf)( license)?": "PSF-2.0",
    r"isc license( \(iscl\))?": "ISC",
    r"zlib": "Zlib",
}
#: distribution → its licence, and why it is there all the same
EXCEPTIONS = {
    "chardet": (
        "LGPL-2.1-or-later",
        "rl_zoo3 makes its tables with pytablewriter, which imports it. It is a distribution of its own, which anyone "
        "can exchange; nothing of it is in this package",
    ),
    "imageio-ffmpeg": (
        "BSD-2-Clause",
        "that is the licence of its Python code, and its wheels hold the program ffmpeg under the GPL. rl_zoo3 makes "
        "videos with moviepy, which runs it as a program of its own; IMAGEIO_FFMPEG_EXE names another one",
    ),
}
#: what PyPI's torch for Linux needs beside it, and torch's CPU build does not
OF_CUDA = re.compile(r"nvidia-.+|cuda-.+")


def installed(name: str, extra: str) -> dict[str, Message]:
    """The metadata of all that a distribution's extra brings, by name, itself included.

    :raises AssertionError: where something of it is not installed
    """
    found, todo = {}, {(canonicalize_name(name), frozenset({extra}))}
    seen = set()
    while todo:
        seen.add(which := todo.pop())
        name, extras = which
        try:
            own = distribution(name)
        except PackageNotFoundError:
            raise AssertionError(f"{name} is not installed: pip install .[{extra}]") from None
        found[name] = own.metadata
        for needed in map(Requirement, own.requires or ()):
            if needed.marker is None or any(needed.marker.evaluate({"extra": one}) for one in extras | {""}):
                todo |= {(canonicalize_name(needed.name), frozenset(needed.extras))} - seen
    return found


def licences(of: Message) -> list[str]:
    """What a distribution says of its licence: an SPDX expression, or classifiers, or words."""
    if expression := of.get("License-Expression"):
        return [expression]
    classifiers = [text.split("::") for text in of.get_all("Classifier", ())]
    named = [parts[-1].strip() for parts in classifiers if parts[0].strip() == "License" and len(parts) > 1]
    named = [name for name in named if name != "DFSG approved"]  # that Debian takes it, whichever it is
    words = (of.get("License") or "none is given").strip()
    # some give the licence's whole text, which no table has
    return named or [words.splitlines()[0]]


def is_allowed(text: str) -> bool:
    """Whether all licences of an SPDX expression are, of those joined by OR one; or of words, the one that is meant."""
    for pattern, identifier in WORDS.items():
        if re.fullmatch(pattern, text, re.IGNORECASE):
            return identifier in ALLOWED
    alternatives = re.split(r"\s+OR\s+", text.strip("()"))
    return any(all(part.strip("() ") in ALLOWED for part in re.split(r"\s+AND\s+", one)) for one in alternatives)


def objection(name: str, of: Message) -> str | None:
    """Why a distribution may not be installed with this package, or that it may."""
    said = licences(of)
    if name in EXCEPTIONS:
        licence, _ = EXCEPTIONS[name]
        stated = of.get("License-Expression") or of.get("License")
        return None if stated == licence else f"{name} is an exception as {licence}, and now has {stated}"
    if OF_CUDA.fullmatch(name) or all(map(is_allowed, said)):
        return None
    return (
        f"{name} {of['Version']} has the licence {' and '.join(said)}, which is not allowed: do without it, or "
        "add it to ALLOWED, WORDS or EXCEPTIONS with a reason"
    )


def test_all_licences_are_allowed():
    found = installed("sb3_relax", "all")
    assert len(found) > 100
    assert [text for name, of in found.items() if (text := objection(name, of))] == []
    assert found.keys() >= EXCEPTIONS.keys(), "an exception is no longer needed"


def test_what_the_user_installs_is_not_ours():
    """pygame-ce is LGPL. Box2D's environments need it to be drawn, and nothing else does."""
    assert "pygame-ce" not in installed("sb3_relax", "all")
    assert metadata("sb3_relax")["License-Expression"] or metadata("sb3_relax")["License"] == "MIT"


def of(**fields):
    message = Message()
    message["Version"] = "1.0"
    for name, value in fields.items():
        message[name.replace("_", "-")] = value
    return message


GPL = "License :: OSI Approved :: GNU General Public License v3 (GPLv3)"


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        (dict(License_Expression="MIT"), True),
        (dict(License_Expression="Apache-2.0 OR GPL-3.0-only"), True),
        (dict(License_Expression="MIT AND GPL-3.0-only"), False),
        (dict(License_Expression="(MIT AND BSD-3-Clause) OR AGPL-3.0-only"), True),
        (dict(License_Expression="AGPL-3.0-or-later"), False),
        (dict(License_Expression="LGPL-3.0-only"), False),
        (dict(License="MIT", Classifier=GPL), False),
        (dict(License="new BSD License"), True),
        (dict(License="BSD 3-Clause License\n\nCopyright ..."), True),
        (dict(License="GNU General Public License"), False),
        (dict(License="GPL"), False),
        (dict(License="MIT and GPL"), False),
        (dict(License="", Classifier="License :: OSI Approved"), False),
        (dict(), False),
    ],
)
def test_licences_are_told_apart(fields, allowed):
    said = objection("some-package", of(**fields))
    assert (said is None) == allowed, said
    if not allowed:
        assert said.startswith("some-package 1.0 has the licence ")


def test_an_exception_is_of_one_licence():
    assert objection("chardet", of(License="LGPL-2.1-or-later")) is None
    assert "now has GPL-3.0-only" in objection("chardet", of(License_Expression="GPL-3.0-only"))
