"""Digests against those of fsverity(1), which measures as the kernel does."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfsrepo.formats import fsverity
from cfsrepo.formats.fsverity import Algorithm, Hasher
from cfsrepo.store import kernelverity
from cfsrepo.system import linux

PATTERN = bytes(i * 7 % 251 for i in range(251))

# size of the pattern, repeated; what `fsverity digest --compact` of fsverity-utils 1.5 says
KNOWN = [
    (
        0,
        "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95",
        "ccf9e5aea1c2a64efa2f2354a6024b90dffde6bbc017825045dce374474e13d1"
        "0adb9dadcc6ca8e17a3c075fbd31336e8f266ae6fa93a6c3bed66f9e784e5abf",
    ),
    (
        1,
        "b803429503d95915829b29fdbc8bbad142f3abfd11b1cadf5526582e685c0551",
        "9fcf5172b085b1c8f9365eecb37a1869e193a4705654a5829f11939cd01d5c0f"
        "d97276be8cd9d49f76cfc8dcfeb80f8128e3548a1de50b56912b9e3fc7bde27b",
    ),
    (
        64,
        "243defeeae9ee514fced6d874a65309b82027032c45a13da8174761f38d21f70",
        "796aaf46cf60092aa938947f0bc7253a835f48b81c631a1b12f104414e7e47aa"
        "37e75ff4daf9b36cf51fbb42a429ce558c7632ee524fe9685da3e51e4e40ece1",
    ),
    (
        4095,
        "f7c044deee0d5af15f6478c08b8a0c03931d9963beb30220eeca8bdd03e1c7e4",
        "22177506c1555aed7fd657a22ee269be0a0c1e6c78456dd483094d48e908e83e"
        "c9707c2aeaddeacbf66b5b39c7f930ed39379c76ab1545a904a95f2f5c44abf5",
    ),
    (
        4096,
        "258b680fa93e3bfc1586d9b439d29a2172bd0db550fe7da1272fd8120d801182",
        "ef1f60c08ab4125b3fab60aefc401ce35cd8df6eb196ac2ec4c720a658bfb083"
        "ea427822a55dd0871a2454dbf181b4af400d87b554dd8c3b72007a589845bfd2",
    ),
    (
        4097,
        "0328cc6ed983dc0df3103b9651098ab305e4adfae46a1a5814b6602b0630293d",
        "96c4fa5e1bf660efefebd3721464ed231f75990c5145f7570ff870c2bedcfba2"
        "678e16ac1e9580dc3ebe8f87fb1ff7adafee850e8b46098e2ee1cdf7f88c59ec",
    ),
    (
        8192,
        "32dd06a98d4b2bb226faad1839766c3592f4f9ed541a417116c8b828ccd07da3",
        "06f1fb3eb69c14c5fbe474b4c6f864ccd0268ba76c70448ff603dee14bd3f905"
        "7fe2e36cebe39c938b4427d2fe9ef9bd8b91e69fb92b342c57ad2f6326868cac",
    ),
    (
        524287,
        "3d402ecfcb5aa7f0d14f1f7e64014920ee3c11934ef095db851e6274d3a0af27",
        "2de172eee14ce20a49912c626eb9a69a14f4558d7b6c4fad6af7d420c0455082"
        "bdf909e6af424900762576dc5af7f6ca361887c607d70af58dd95423aa2e1794",
    ),
    (
        524288,
        "e1389416027616e5a91f01961c0d159871f5c6afaf577d6e3b9d815f916fbde0",
        "f9f10f8819b875248532b41cb9e29773a8f93ca8454c36807176238dc9037e71"
        "37c7ab2789849550175453f6d0327c02f862cd829003ab1aa0d4e47ff1ce782f",
    ),
    (
        524289,
        "00023924223dbf3c1f1095d9f0fb02546dc2d8ea7032445ad216eab168faa3bb",
        "b9cdf23d8e5e7f778a4a559affb64a08bebac51ebba077fb77793dbeacb29be7"
        "672d4298c63f58fb74953f815769ba320c9d11df7b803cdb1cc04ce631011890",
    ),
    (
        528384,
        "6f014f4ac506e6436e4a5a7adb415abcb3a5476f7490f36621fa7c7e4c7e9272",
        "893290e3316569ddcf9c9ab857ccf586e345450a83dd979418ac148444eddeb8"
        "fb239560efc6e2d574188c4fba00bc7799a9adf14603d952aed4fdda7ed83311",
    ),
    (
        67108864,
        "1bbe6f85e0f681d63f0b917e30c9b90d05b2d7e37765becc4db771964a991186",
        "748b370aab96564ec4be1058f065346dd7a146374a4f85be14033ccbc4d7c4e7"
        "cb1a2750aacd7ea1e4a4dd5b3ff1f7ef505a3a4a4e99f0a7939bb1f2cd90351f",
    ),
    (
        67108865,
        "c2eaafb2350bac927e83243cef1e866d33d74ca72b47cc7c3a5ce0a05f522ba9",
        "458715a26b7f10dede555187bf1a19123fa437ae1d50299298d606f14d2c806a"
        "86aa641813f2bdc63a65fee3fff670f4d6786ad5aac4e68664689815b3cf8874",
    ),
]


@pytest.fixture(scope="module", params=["native", "hashlib"], autouse=True)
def hashing(request: pytest.FixtureRequest) -> Iterator[None]:
    """All tests twice: with the native module, where it is faster here, and without."""
    with pytest.MonkeyPatch.context() as patch:
        for algorithm in Algorithm:
            if request.param == "hashlib":
                patch.setattr(algorithm, "_native_from", sys.maxsize)
            elif not fsverity.scales(algorithm):
                pytest.skip("the native module was not compiled, or is not faster here")
        yield


def data_of(size: int) -> bytes:
    return (PATTERN * (size // len(PATTERN) + 1))[:size]


@pytest.mark.parametrize(("size", "sha256", "sha512"), KNOWN, ids=[str(row[0]) for row in KNOWN])
def test_digest_is_that_of_fsverity(size: int, sha256: str, sha512: str) -> None:
    data = data_of(size)
    assert fsverity.digest(data).hex() == sha256
    assert fsverity.digest(data, Algorithm.SHA512).hex() == sha512
    assert fsverity.digest(bytearray(data)).hex() == sha256
    assert fsverity.digest(memoryview(data)).hex() == sha256


@pytest.mark.parametrize(("size", "sha256", "sha512"), KNOWN, ids=[str(row[0]) for row in KNOWN])
@pytest.mark.parametrize("piece", [1000, 4096, 5000, 1 << 20, 1 << 30])
def test_hasher_does_not_care_how_data_comes(
    size: int, sha256: str, sha512: str, piece: int
) -> None:
    data = data_of(size)
    for algorithm, wanted in ((Algorithm.SHA256, sha256), (Algorithm.SHA512, sha512)):
        hasher = Hasher(algorithm)
        for at in range(0, size, piece):
            hasher.update(data[at : at + piece])
        assert hasher.digest().hex() == wanted
        assert hasher.size == size


@settings(deadline=None)
@given(st.lists(st.integers(0, 600_000), max_size=6))
def test_hasher_equals_digest(pieces: list[int]) -> None:
    hasher = Hasher()
    data = b""
    for number, size in enumerate(pieces):
        piece = bytes([number]) * size
        hasher.update(piece)
        data += piece
    # Asking twice, and between updates, changes nothing.
    assert hasher.digest() == hasher.digest() == fsverity.digest(data)


def test_hasher_goes_on_after_digest() -> None:
    hasher = Hasher()
    hasher.update(b"a" * 5000)
    assert hasher.digest() == fsverity.digest(b"a" * 5000)
    hasher.update(b"b" * 600_000)
    assert hasher.digest() == fsverity.digest(b"a" * 5000 + b"b" * 600_000)


def test_digest_fd_leaves_the_offset(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(data_of(3_000_000))
    with linux.opened(str(path), os.O_RDONLY) as fd:
        os.lseek(fd, 17, os.SEEK_SET)
        assert fsverity.digest_fd(fd) == fsverity.digest(data_of(3_000_000))
        assert os.lseek(fd, 0, os.SEEK_CUR) == 17
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped:
            assert fsverity.digest(mapped) == fsverity.digest(data_of(3_000_000))


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_ranges_and_many(algorithm: Algorithm) -> None:
    data = data_of(3_000_001)
    fd = os.memfd_create("data")
    try:
        os.write(fd, data)
        for start, size in ((0, 1), (0, 3_000_001), (4096, 2_000_000), (2_999_000, 5000), (1, 0)):
            part = data[start : start + size]
            hashes = fsverity.hash_blocks(part, algorithm)
            assert fsverity.hash_range(fd, start, size, algorithm) == hashes
            assert fsverity.read_range(fd, start, size, algorithm) == (part, hashes)
    finally:
        os.close(fd)
    buffers = [data[:size] for size in (0, 1, 4096, 4097, 100_000, 100)]
    assert fsverity.digest_many(buffers, algorithm) == [
        fsverity.digest(buffer, algorithm) for buffer in buffers
    ]


def test_the_environment_can_ask_for_hashlib() -> None:
    program = "from cfsrepo.formats import fsverity as f; print(f.scales(f.Algorithm.SHA256))"
    environment = {**os.environ, "CFS_BLOCKHASH": "hashlib"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, check=True, capture_output=True)
    assert done.stdout == b"False\n"


def test_algorithms() -> None:
    assert Algorithm("fsverity-sha256-12") is Algorithm.SHA256
    assert str(Algorithm.SHA512) == "fsverity-sha512-12"
    for algorithm in Algorithm:
        assert Algorithm.from_kernel_id(algorithm.kernel_id) is algorithm
        assert len(fsverity.digest(b"x", algorithm)) == algorithm.digest_size
    with pytest.raises(ValueError, match="3"):
        Algorithm.from_kernel_id(3)


def test_enable_says_where_it_is_not_to_be_had() -> None:
    fd = os.memfd_create("no-verity")
    try:
        assert kernelverity.enable(fd, Algorithm.SHA256) is False
        assert kernelverity.measure(fd, Algorithm.SHA256) is None
    finally:
        os.close(fd)


def test_enable_passes_real_failures_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(fd: int, algorithm: int, block_size: int) -> None:
        raise OSError(errno.ETXTBSY, "busy")

    monkeypatch.setattr(linux, "enable_verity", busy)
    with pytest.raises(OSError, match="busy"):
        kernelverity.enable(0, Algorithm.SHA256)


def test_enable_takes_enabled_for_success(monkeypatch: pytest.MonkeyPatch) -> None:
    def exists(fd: int, algorithm: int, block_size: int) -> None:
        raise OSError(errno.EEXIST, "exists")

    monkeypatch.setattr(linux, "enable_verity", exists)
    assert kernelverity.enable(0, Algorithm.SHA256) is True


def test_measure_of_another_algorithm_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "measure_verity", lambda fd: (2, bytes(64)))
    assert kernelverity.measure(0, Algorithm.SHA256) is None
    assert kernelverity.measure(0, Algorithm.SHA512) == bytes(64)
