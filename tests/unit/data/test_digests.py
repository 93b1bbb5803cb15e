"""Digests of images are XXH3 of 64 bits, and differ where the content differs."""

import re

from distributed_pose.data.digests import content_digest


def test_are_xxh3s_of_64_bits_and_differ_by_a_single_bit() -> None:
    # Source: the digest of no bytes in xxHash's own test vectors.
    assert content_digest(b"") == "2d06800538d394c2"
    content = bytes(range(256)) * 600
    digests = {content_digest(content), content_digest(content[:-1] + b"\xfe")}
    assert len(digests) == 2
    assert all(re.fullmatch("[0-9a-f]{16}", digest) for digest in digests)
