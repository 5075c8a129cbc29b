"""Which files are a deployment's, and which are somebody else's."""

from dataclasses import replace

import pytest

from mender_monitor_py.deployed import Content, Evidence, Image, Packaged, Why, packaged_md5

BEGAN, ENDED = 1000.0, 1100.0
GIVEN, OTHER = "aa" * 32, "bb" * 32
FILE = Content(sha256=GIVEN, md5="m", mode=0o755, changed=1050.0, device="8", born=1050.0)
OLDER = FILE._replace(born=900.0)
PAYLOAD = Evidence(BEGAN, ENDED, payload={GIVEN: {"x": 0o755}, OTHER: {"x": 0o4755}})
PACKAGES = Evidence(BEGAN, ENDED, packages=True)
WRITER = Evidence(BEGAN, ENDED, written=frozenset({"/x", "/both"}), others=frozenset({"/both"}))
MOVED = Evidence(
    BEGAN, ENDED, written=frozenset({"/opt/app/x", "/opt/app2/x"}), others=frozenset({"/opt/app", "/opt/a"})
)
MODIFIER = replace(WRITER, modified=frozenset({"/x", "/both"}), found=frozenset({"cc" * 32}))
LOADED = replace(WRITER, since=890.0)
UNTIL = replace(WRITER, watched=1060.0)
MADE = Why("made by the update client", whole=True, capable=True)
INSTALLED = Why("of a package", whole=True, capable=True)
IMAGE = Evidence(BEGAN, ENDED, image=Image("9", 1060.0))


@pytest.mark.parametrize(
    ("evidence", "path", "now", "packaged", "why"),
    [
        (PAYLOAD, "/x", FILE, None, "of the artifact"),
        (PAYLOAD, "/a/x", FILE, None, "of the artifact"),
        (PAYLOAD, "/a/y", FILE, None, ""),
        (PAYLOAD, "/x", FILE._replace(sha256="cc" * 32), None, ""),
        (PAYLOAD, "/x", FILE._replace(changed=990.0), None, ""),
        (PAYLOAD, "/x", FILE._replace(changed=1110.0), None, ""),
        # The bit is somebody else's, unless the artifact has it too.
        (PAYLOAD, "/x", FILE._replace(mode=0o4755), None, ""),
        (PAYLOAD, "/x", FILE._replace(mode=0o4755, sha256=OTHER), None, "of the artifact"),
        (PAYLOAD, "/x", FILE._replace(mode=0o6755, sha256=OTHER), None, ""),
        (PACKAGES, "/x", FILE, Packaged("m", 1060.0), "of a package"),
        (PACKAGES, "/x", FILE, Packaged("n", 1060.0), ""),
        (PACKAGES, "/x", FILE._replace(mode=0o4755), Packaged("m", 1060.0), "of a package"),
        (PACKAGES, "/x", FILE._replace(mode=0o4755), Packaged("m", 1040.0), ""),
        (Evidence(BEGAN, ENDED), "/x", FILE, Packaged("m", 1060.0), ""),
        (WRITER, "/x", FILE, None, "made by the update client"),
        (WRITER, "/both", FILE, None, ""),
        (WRITER, "/x", FILE._replace(changed=990.0), None, ""),
        (WRITER, "/y", FILE, None, ""),
        # What leads to it, and what it is really called: neither is another's, nor is a folder on the way.
        (WRITER, "/link", FILE._replace(names=("/x", "/link")), None, "made by the update client"),
        (WRITER, "/link", FILE._replace(names=("/both", "/link")), None, ""),
        (WRITER, "/x", FILE._replace(names=("/both", "/x")), None, ""),
        (MOVED, "/opt/app/x", FILE, None, ""),
        (MOVED, "/opt/app2/x", FILE, None, "made by the update client"),
        # What was changed when nobody watched any more.
        (UNTIL, "/x", FILE, None, "made by the update client"),
        (UNTIL, "/x", FILE._replace(changed=1061.0), None, ""),
        # What is written by another name, or not yet closed, is not seen at this one.
        (WRITER, "/x", FILE._replace(open_to_others=True), None, ""),
        (PAYLOAD, "/x", FILE._replace(open_to_others=True), None, "of the artifact"),
        # What came with the image was there when it was started; what is on another file system did not come.
        (IMAGE, "/x", FILE._replace(device="9", changed=10.0), None, "of the image"),
        (IMAGE, "/x", FILE._replace(device="9", changed=1070.0), None, ""),
        (IMAGE, "/x", FILE._replace(device="8", changed=10.0), None, ""),
    ],
)
def test_the_rule(evidence, path, now, packaged, why):
    """
    Changed meanwhile, and by the artifact's content, a package's, or the update client's own processes.
    """
    assert evidence.explains(path, now, packaged).words == why


@pytest.mark.parametrize(
    ("evidence", "now", "packaged", "why"),
    [
        # Who changes a mode writes nothing. Who moves a file, or gives it another name, does not make it.
        (WRITER, OLDER, None, Why()),
        (WRITER, FILE._replace(born=None), None, Why()),
        (MODIFIER, OLDER, None, Why("written by the update client", whole=False)),
        (MODIFIER, FILE._replace(born=None), None, Why("written by the update client", whole=False)),
        (MODIFIER, FILE, None, MADE),
        (MODIFIER, OLDER._replace(names=("/both", "/x")), None, Why()),
        (MODIFIER, OLDER._replace(open_to_others=True), None, Why()),
        # What was a finding before, wherever the client has put it; but for what the artifact has.
        (replace(MODIFIER, found=frozenset({GIVEN})), FILE, None, Why()),
        (
            replace(MODIFIER, found=frozenset({OTHER})),
            FILE,
            None,
            MADE,
        ),
        (replace(PAYLOAD, found=frozenset({GIVEN})), FILE, None, Why("of the artifact", whole=True)),
        # The client may make a file while it loads the artifact, and put it to its place later.
        (LOADED, OLDER, None, MADE),
        (LOADED, FILE._replace(born=880.0), None, Why()),
        (replace(LOADED, payload=PAYLOAD.payload), OLDER, None, MADE),
        (replace(MODIFIER, payload=PAYLOAD.payload), OLDER, None, Why("of the artifact", whole=False)),
        (PAYLOAD, OLDER, None, Why("of the artifact", whole=False)),
        (PAYLOAD, FILE, None, Why("of the artifact", whole=True)),
        (PAYLOAD, FILE._replace(born=None), None, Why("of the artifact", whole=True)),
        # dpkg makes all files anew: such a one was not installed.
        (PACKAGES, OLDER, Packaged("m", 1060.0), Why()),
        (PACKAGES, FILE, Packaged("m", 1060.0), INSTALLED),
        (
            PACKAGES,
            FILE._replace(born=None),
            Packaged("m", 1060.0),
            INSTALLED,
        ),
        (PACKAGES, FILE, Packaged("m", 1040.0), Why("of a package", whole=True)),
        (IMAGE, OLDER._replace(device="9"), None, Why("of the image", whole=True, capable=True)),
    ],
)
def test_a_file_that_was_there_before(evidence, now, packaged, why):
    """
    Only what was written to it is the deployment's: neither its mode and owner, nor what was in it before.
    """
    assert evidence.explains("/x", now, packaged) == why


@pytest.mark.parametrize(
    ("evidence", "path", "changed", "device", "why"),
    [
        (WRITER, "/x", 1050.0, "8", "removed by the update client"),
        (WRITER, "/x", 990.0, "8", ""),
        (WRITER, "/x", 1110.0, "8", ""),
        (WRITER, "/both", 1050.0, "8", ""),
        (WRITER, "/y", 1050.0, "8", ""),
        (UNTIL, "/x", 1061.0, "8", ""),
        (PAYLOAD, "/x", 1050.0, "8", ""),
        (IMAGE, "/x", 10.0, "9", "not in the image"),
        (IMAGE, "/x", 1070.0, "9", ""),
        (IMAGE, "/x", 10.0, "8", ""),
    ],
)
def test_the_rule_for_what_is_gone(evidence, path, changed, device, why):
    """
    Removed meanwhile by the update client alone, or never on the new root file system.
    """
    assert evidence.explains_absence(path, changed, device) == why


def test_evidence_is_written_and_read():
    """
    The process that brings the lists up to date judges by what the watcher knew.
    """
    for one in (PAYLOAD, PACKAGES, WRITER, MODIFIER, LOADED, UNTIL, IMAGE):
        assert Evidence.from_json(one.to_json()) == one


@pytest.mark.parametrize(
    ("names", "md5"),
    [
        ({"/usr/bin/a"}, "0" * 32),
        ({"/usr/bin/b"}, ""),  # a file without a sum: of the configuration
        ({"/usr/bin/c"}, ""),
        ({"/bin/a", "/usr/bin/a"}, "0" * 32),
    ],
)
def test_what_dpkg_says(names, md5):
    """
    Only a file that the package has, with the sum that it has for it.
    """
    sums = f"{'0' * 32}  usr/bin/a\n{'1' * 32}  usr/bin/c\n"
    assert packaged_md5("/.\n/usr\n/usr/bin/a\n/usr/bin/b\n", sums, frozenset(names)) == md5
