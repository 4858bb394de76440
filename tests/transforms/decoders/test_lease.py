"""Decoder processes shared by all blocks that need some at the same time."""

from __future__ import annotations

import threading

from imagecensus.transforms.decoders import lease as leases
from imagecensus.transforms.decoders.lease import lease
from imagecensus.transforms.image_ref import Limits

OTHER = Limits(max_bytes=1 << 20)


def test_blocks_share_decoders_and_the_last_one_ends_them(own_decoders):
    with lease() as one:
        with lease() as same:
            assert same is one
        with lease(OTHER) as other:
            assert other is not one
        assert other.closed and not one.closed
    assert one.closed and not leases._open


def test_a_block_that_garbage_collection_ends_while_another_begins(own_decoders, monkeypatch):
    """A generator that nobody finishes is closed in whatever thread collects garbage then."""

    def unfinished():
        with lease() as pool:
            yield pool

    left = unfinished()
    before = next(left)
    make = leases.Pool

    def collecting(*arguments):
        left.close()
        return make(*arguments)

    monkeypatch.setattr(leases, "Pool", collecting)

    def begin():
        with lease(OTHER):
            assert before.closed
        ended.set()

    ended = threading.Event()
    threading.Thread(target=begin, daemon=True).start()
    assert ended.wait(30), "the block waits for itself"
    assert not leases._open
