"""A store with keys, against a real Redis: nothing readable in it, and nothing believed that was not sealed for its name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from actors.app import Longwatch
from actors.parts import Settings, open_store
from pipeline.config import Config
from pipeline.core import Carrier, CarrierKey, CarrierWrite, Form, TimeRange
from storage import keys
from storage.codec import Codec
from storage.quantise import pack, unpack
from storage.seal import BadKeyFile, Seal
from storage.store import CarrierStore

pytestmark = pytest.mark.redis

FINGERPRINT = "0a1b2c3d"
SEALED = Codec(form=Form.INT8, seal=Seal([bytes(range(32))]))
FACE = b"\xff\xd8 a face \xff\xd9"


def write(at_ms: int, camera_id: str = "dock") -> CarrierWrite:
    r = np.random.default_rng(at_ms)
    carrier = Carrier(
        key=CarrierKey(camera_id=camera_id, at_ms=at_ms),
        fingerprint=FINGERPRINT,
        span=TimeRange(start_ms=at_ms, end_ms=at_ms),
        embedding=r.standard_normal(32).astype(np.float16),
        kv=r.standard_normal((3, 2, 2, 8)).astype(np.float16),
    )
    return CarrierWrite(carrier=carrier, picture=FACE, live=(at_ms,))


def test_what_was_sealed_comes_back_and_redis_shows_none_of_it(redis_url: str) -> None:
    store, one = CarrierStore(redis_url, FINGERPRINT, codec=SEALED), write(1000)
    store.put([one])
    [back] = store.get([one.carrier.key])
    assert back is not None and store.picture("dock", 1000) == FACE and not store.misses
    assert back.kv.tobytes() == unpack(pack(one.carrier.kv, Form.INT8)).tobytes()
    with redis.Redis.from_url(redis_url) as raw:
        kept: dict[bytes, Any] = {name: raw.get(name) for name in raw.scan_iter() if raw.type(name) == b"string"}
    assert len(kept) == 3  # carrier, picture, and the times in the live memory
    told = np.ascontiguousarray(back.kv).tobytes()[:16]
    assert all(FACE not in value and b"embedding" not in value and told not in value for value in kept.values())


@pytest.mark.parametrize(
    ("written", "read", "reason"),
    [
        (Codec(), SEALED, "unsealed"),
        (SEALED, Codec(), "sealed"),
        (Codec(seal=Seal([bytes(32)])), SEALED, "sealed"),
    ],
    ids=["in the clear", "no key", "another key"],
)
def test_what_another_key_sealed_is_a_counted_miss(redis_url: str, written: Codec, read: Codec, reason: str) -> None:
    CarrierStore(redis_url, FINGERPRINT, codec=written).put([write(1000)])
    store = CarrierStore(redis_url, FINGERPRINT, codec=read)
    assert store.get([write(1000).carrier.key]) == [None] and store.picture("dock", 1000) is None
    assert store.misses == {reason: 2}
    assert store.newest_picture("dock") is None


def test_a_picture_or_carrier_moved_to_another_name_does_not_open(redis_url: str) -> None:
    store = CarrierStore(redis_url, FINGERPRINT, codec=SEALED)
    store.put([write(1000), write(2000)])
    first, second = write(1000).carrier.key, write(2000).carrier.key
    with redis.Redis.from_url(redis_url) as raw:
        raw.copy(keys.carrier(first, FINGERPRINT), keys.carrier(second, FINGERPRINT), replace=True)
        raw.copy(keys.picture("dock", 1000), keys.picture("dock", 2000), replace=True)
    assert store.get([second]) == [None] and store.picture("dock", 2000) is None
    assert store.misses == {"seal": 2}


def test_carriers_in_every_form_answer_together(redis_url: str) -> None:
    for at_ms, form in enumerate(Form, start=1):
        CarrierStore(redis_url, FINGERPRINT, codec=Codec(form=form)).put([write(at_ms)])
    store = CarrierStore(redis_url, FINGERPRINT)
    back = store.get([CarrierKey(camera_id="dock", at_ms=at_ms) for at_ms in store.times("dock")])
    assert [one.kv.dtype for one in back if one] == [np.float16] * len(Form) and not store.misses


def test_the_configuration_says_form_and_keys(redis_url: str, tmp_path: Path) -> None:
    path = tmp_path / "memory.key"
    path.write_bytes(bytes(range(32)))
    path.chmod(0o600)
    config = Config.model_validate({"memory": {"form": "int4", "key_files": [str(path)]}})
    open_store(Settings.of(config, redis_url), FINGERPRINT).put([write(1000)])
    [back] = CarrierStore(redis_url, FINGERPRINT, codec=SEALED).get([write(1000).carrier.key])
    assert back is not None and back.kv.tobytes() == unpack(pack(write(1000).carrier.kv, Form.INT4)).tobytes()


def test_an_odd_key_file_is_said_before_anything_starts(tmp_path: Path) -> None:
    config = Config.model_validate({"memory": {"key_files": [str(tmp_path / "none")]}})
    with pytest.raises(BadKeyFile, match="none: cannot be read"), Longwatch(config):
        pass
