"""cmd serve as programs use and abuse it: many at once, killed and slow ones, bodies too large, files that are none, paths that lead outside."""

import http.client
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import numpy as np
import openapi_spec_validator

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

from killing.world import make_world, write_wav  # noqa: E402
from program import CMD, cmd  # noqa: E402

REQUESTS = int(os.environ.get("CMD_TEST_REQUESTS", 2_000))


class Server:
    """A server of the world in `folder`."""

    def __init__(self, folder: Path, *arguments: str, index: str = "idx") -> None:
        command = [CMD, "--quiet", "serve", index, "--port", "0", *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.address = self.process.stdout.readline().strip().removeprefix("http://").removesuffix("/")
        self.host, _, port = self.address.rpartition(":")
        self.port = int(port)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.host.strip("[]"), self.port, timeout=60)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named, encode_chunked="Transfer-Encoding" in named)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> dict:
        status, _, body = self.ask("GET", path, **headers)
        assert status == 200, (path, status, body)
        return json.loads(body)

    def found(self, sound: bytes, query: str = "k=3") -> list[tuple[int, float]]:
        status, _, body = self.ask("POST", f"/api/search?{query}", sound)
        assert status == 200, (status, body)
        return [(hit["id"], hit["score"]) for hit in json.loads(body)["found"]]

    def memory(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) // 1024

    def socket(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=60)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        self.said = self.process.stderr.read()
        self.process.stdout.close()
        self.process.stderr.close()
        return status


def many_scans(hidden: bytes = b"") -> bytes:
    """A progressive JPEG of 1024 x 1024 whose coefficients are sent, as zeros, 300 times."""
    segment = lambda marker, data: bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data  # noqa: E731
    huffman = lambda table, symbol: segment(0xC4, bytes([table, 1] + [0] * 15 + [symbol]))  # noqa: E731
    start = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64) + segment(0xC2, struct.pack(">BHHB", 8, 1024, 1024, 1) + b"\1\x11\0")
    first = segment(0xDA, b"\1\1\0\0\0\0") + bytes(128 * 128 // 8)
    # A run of 16,384 blocks without coefficients.
    again = segment(0xDA, b"\1\1\0\x01\x3f\0") + b"\0\x01"
    return start + huffman(0, 0) + huffman(0x10, 0xE0) + first + 300 * (hidden + again) + b"\xff\xd9"


def checked(data: bytes, width: int, polynomial: int) -> bytes:
    """`data` with its CRC behind it."""
    crc, top = 0, 1 << (width - 1)
    for byte in data:
        crc ^= byte << (width - 8)
        for _ in range(8):
            crc = (crc << 1 ^ polynomial if crc & top else crc << 1) & (2 * top - 1)
    return data + crc.to_bytes(width // 8, "big")


def silent_flac(frames: int) -> bytes:
    """A FLAC file that does not state its length: frames of 65,535 zeros at 655,350 Hz, a tenth of a second each."""
    stream = struct.pack(">HH", 65535, 65535) + bytes(6) + struct.pack(">Q", 655350 << 44 | 15 << 36) + bytes(16)
    head = lambda n: checked(b"\xff\xf8\x70\x08" + chr(n).encode() + struct.pack(">H", 65534), 8, 0x07)  # noqa: E731
    return b"fLaC\x80\0\0\x22" + stream + b"".join(checked(head(n) + b"\0\0\0", 16, 0x8005) for n in range(frames))


class Api(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        make_world(cls.folder)
        cls.cmd("train", "--config", "tiny.toml", "--name", "a", "--set", "train.steps=12")
        cls.cmd("search", "index", "--split", "test", "--out", "idx")
        cls.sounds = [path.read_bytes() for path in sorted(cls.folder.glob("data/*.wav"))]
        cls.server = Server(cls.folder)
        cls.addClassCleanup(cls.ends_well)

    @classmethod
    def ends_well(cls) -> None:
        status = cls.server.stop()
        assert (status, cls.server.said) == (0, ""), (status, cls.server.said)

    @classmethod
    def cmd(cls, *arguments: str) -> str:
        return cmd(cls.folder, *arguments)

    def refused(self, status: int, method: str, path: str, body: bytes | None = None, **headers: str) -> str:
        found, _, answer = self.server.ask(method, path, body, **headers)
        self.assertEqual(found, status, (path, answer))
        error = json.loads(answer)["error"]
        self.assertNotIn(str(self.folder), error)
        self.assertNotIn("/tmp", error)
        return error

    def test_the_answers_are_those_of_cmd_search(self) -> None:
        about = self.server.get("/api/about")
        self.assertEqual((about["images"], about["speech"], about["attention"]), (8, 22, True))
        names = {item["id"]: item["name"] for item in about["pictures"]}
        for path in sorted(self.folder.glob("data/test *.wav"))[:4]:
            told = json.loads(self.cmd("search", "idx", "--speech", str(path), "-k", "3", "--json"))["queries"][0]["found"]
            found = self.server.found(path.read_bytes())
            self.assertEqual([hit["id"] for hit in told], [id for id, _ in found])
            np.testing.assert_allclose([hit["score"] for hit in told], [score for _, score in found], atol=1e-5)
            for hit in told:
                self.assertEqual(names.get(hit["id"], Path(hit["file"]).name), Path(hit["file"]).name)
        picture = (self.folder / "data/test 2.png").read_bytes()
        status, _, body = self.server.ask("POST", "/api/search?k=4", picture)
        self.assertEqual(({hit["medium"] for hit in json.loads(body)["found"]}, status), ({"speech"}, 200))
        self.assertTrue(all(hit["said"].startswith("caption") for hit in json.loads(body)["found"]))
        one = about["examples"][0]["id"]
        looked = self.server.get(f"/api/items/{one}/attention/{about['pictures'][0]['id']}?parts=3")
        self.assertAlmostEqual(sum(looked["weights"]), 1, places=4)
        self.assertEqual(self.server.get(f"/api/items/{one}/search?k=2&find=speech")["found"][0]["id"], one)
        sound = self.server.ask("GET", f"/api/items/{one}/sound")
        self.assertEqual(sound[1]["accept-ranges"], "bytes")
        status, headers, part = self.server.ask("GET", f"/api/items/{one}/sound", Range="bytes=40-49")
        self.assertEqual((status, headers["content-range"], part), (206, f"bytes 40-49/{len(sound[2])}", sound[2][40:50]))
        status, headers, why = self.server.ask("GET", f"/api/items/{one}/sound", Range=f"bytes={len(sound[2])}-")
        self.assertEqual((status, headers["content-range"]), (416, f"bytes */{len(sound[2])}"))
        self.assertIn("bytes", json.loads(why)["error"])
        openapi_spec_validator.validate(self.server.get("/openapi.json"))
        self.assertEqual(self.server.ask("GET", "/healthz")[2], b"ok\n")

    def test_words_ask_and_keywords_are_told(self) -> None:
        words = "caption 1 of test 3"
        self.assertEqual((self.server.get("/api/about")["text"], self.server.get("/api/about")["limits"]["characters"]), (True, 1000))
        told = json.loads(self.cmd("search", "idx", "--text", words, "-k", "3", "--json"))["queries"][0]["found"]
        answer = self.server.get(f"/api/search?k=3&text={quote(words)}")
        self.assertEqual((answer["query"], [hit["id"] for hit in answer["found"]]), ({"medium": "text", "cut": False}, [hit["id"] for hit in told]))
        self.assertTrue(self.server.get(f"/api/search?text={quote('dog ' * 100)}")["query"]["cut"])
        self.assertEqual({hit["medium"] for hit in self.server.get("/api/search?find=speech&text=a")["found"]}, {"speech"})
        for path in ("/api/search", "/api/search?text=%20", "/api/search?text=" + 1001 * "a", "/api/search?text=a&k=0", "/api/search?text=a&l=1",
                     "/api/search?text=%26nbsp%3B", "/api/search?text=5%", "/api/search?text=5%2", "/api/search?text=%+1", "/api/search?text=%ff"):
            self.refused(400, "GET", path)
        self.assertIn("%25", self.refused(400, "GET", "/api/search?text=100%&k=3"))
        self.refused(404, "GET", "/api/items/0/keywords")
        self.refused(404, "POST", "/api/keywords", self.sounds[0])

        # A model that hears keywords, and one without a text encoder.
        self.cmd("train", "--config", "tiny.toml", "--name", "c", "--set", "train.steps=6", "--set", "speech.head=cascaded", "--set",
                 "speech.keywords=5")
        self.cmd("search", "index", "--checkpoint", "runs/c", "--split", "test", "--out", "heard")
        text = (self.folder / "tiny.toml").read_text()
        (self.folder / "wordless.toml").write_text("".join(line for line in text.splitlines(True) if "text.path" not in line))
        self.cmd("train", "--config", "wordless.toml", "--name", "w", "--set", "train.steps=2")
        self.cmd("search", "index", "--checkpoint", "runs/w", "--split", "test", "--out", "wordless")
        for index in ("heard", "wordless"):
            server = Server(self.folder, index=index)
            try:
                about = server.get("/api/about")
                parts = server.get(f"/api/items/{about['examples'][0]['id']}/attention/{about['pictures'][0]['id']}")["parts"]
                self.assertEqual([bool(part.get("word")) for part in parts], [True] * 5 if index == "heard" else [False] * 8)
                self.assertEqual((about["text"], about["keywords"]), (index == "heard", index == "heard"))
                if index == "heard":
                    one = about["examples"][0]
                    status, _, body = server.ask("POST", "/api/keywords", (self.folder / "data" / one["name"]).read_bytes())
                    heard = json.loads(body)["keywords"]
                    self.assertEqual((status, heard), (200, server.get(f"/api/items/{one['id']}/keywords")["keywords"]))
                    self.assertEqual([word["word"] for word in heard], [part["word"] for part in parts])
                    for word in heard:
                        self.assertTrue(0 <= word["from"] < word["to"] and -1.001 < word["score"] < 1.001, word)
                    picture = (self.folder / "data/test 2.png").read_bytes()
                    self.assertEqual(server.ask("POST", "/api/keywords", picture)[0], 415)
                    self.assertEqual(server.ask("GET", f"/api/items/{one['id']}/keywords?k=1")[0], 400)
                    self.assertEqual(server.ask("GET", f"/api/items/{about['pictures'][0]['id']}/keywords")[0], 404)
                if index == "wordless":
                    status, _, body = server.ask("GET", "/api/search?text=a")
                    self.assertEqual((status, "encoders.text.path" in json.loads(body)["error"]), (404, True))
            finally:
                self.assertEqual(server.stop(), 0)

    def test_many_at_once_are_neither_lost_nor_mixed_up(self) -> None:
        alone = [self.server.found(sound) for sound in self.sounds]
        self.assertGreater(len({tuple(id for id, _ in found) for found in alone}), 1)
        gate = threading.Barrier(64)

        def one(client: int) -> None:
            gate.wait()
            for turn in range(10):
                number = (client * 7 + turn) % len(self.sounds)
                found = self.server.found(self.sounds[number])
                assert [id for id, _ in found] == [id for id, _ in alone[number]], (found, alone[number])
                np.testing.assert_allclose([score for _, score in found], [score for _, score in alone[number]], atol=1e-5)

        with ThreadPoolExecutor(64) as clients:
            list(clients.map(one, range(64)))
        metrics = self.server.ask("GET", "/metrics")[2].decode()
        self.assertIn("cmd_queue 0\n", metrics)

    def test_memory_stays_flat(self) -> None:
        def some(count: int) -> int:
            with ThreadPoolExecutor(8) as clients:
                list(clients.map(lambda n: self.server.found(self.sounds[n % len(self.sounds)]), range(count)))
            return self.server.memory()

        before = some(REQUESTS // 2)
        self.assertLess(some(REQUESTS), before + 24)

    def test_what_is_wrong_has_its_status(self) -> None:
        post = lambda body: self.refused(422, "POST", "/api/search", body)  # noqa: E731
        wav = self.sounds[0]
        self.assertIn("empty", self.refused(400, "POST", "/api/search", b""))
        self.assertIn("neither", self.refused(415, "POST", "/api/search", b"no sound at all" * 50))
        header = lambda channels, rate, bits: struct.pack("<HHIIHH", 1, channels, rate, rate, 2, bits)  # noqa: E731
        riff = lambda fmt, data: b"RIFF\x40\0\0\0WAVEfmt \x10\0\0\0" + fmt + b"data" + data  # noqa: E731
        for bad in (riff(header(0, 16000, 16), b"\4\0\0\0abcd"), riff(header(1, 0, 16), b"\4\0\0\0abcd"), riff(header(1, 16000, 0), b"\4\0\0\0abcd")):
            self.assertIn(self.server.ask("POST", "/api/search", bad)[0], (415, 422))
        nan = wav[:20] + b"\3\0\1\0\x80\x3e\0\0\0\xfa\0\0\4\0\x20\0" + b"data" + struct.pack("<I", 400) + struct.pack("<f", float("nan")) * 100
        self.assertIn("NaN", post(nan))
        jpeg = b"\xff\xd8\xff\xe0" + bytes(500)
        self.assertIn(self.server.ask("POST", "/api/search", jpeg)[0], (415, 422))
        bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0) + b"\0" * 4
        self.assertIn(self.server.ask("POST", "/api/search", bomb)[0], (415, 422))
        loud = nan[:44] + struct.pack("<f", 1e38) * 100
        self.assertIn("no sound", post(loud))
        begun = time.monotonic()
        self.assertIn("scans", post(many_scans()))
        self.assertIn("scans", post(many_scans(hidden=b"\xff\x01")))
        self.assertIn("longer than 60", self.refused(413, "POST", "/api/search", silent_flac(1000)))
        self.assertLess(time.monotonic() - begun, 20)
        # What is refused before its body is read is heard by those who are sending it still.
        self.refused(404, "POST", "/api/none", bytes(3_000_000))
        self.refused(400, "POST", "/api/search?k=-1", bytes(3_000_000))
        self.refused(404, "GET", "/api/items/%ff/sound")
        waiting = self.server.socket()
        head = f"POST /api/search HTTP/1.1\r\nHost: {self.server.address}\r\nContent-Length: 100000000\r\nExpect: 100-continue\r\n\r\n"
        waiting.sendall(head.encode())
        self.assertIn(b"413", waiting.recv(30))
        waiting.close()
        long = wav[:40] + struct.pack("<I", 61 * 32000) + bytes(61 * 32000)
        self.assertIn("longer than 60", self.refused(413, "POST", "/api/search", long))
        self.assertIn("16 MB", self.refused(413, "POST", "/api/search", bytes(100_000_000)))
        chunks = self.server.ask("POST", "/api/search", iter([bytes(1_000_000)] * 40), Transfer_Encoding="chunked")
        self.assertEqual(chunks[0], 413)
        for path in ("/api/search?k=0", "/api/search?k=x", "/api/search?find=all", "/api/search?other=1"):
            self.refused(400, "POST", path, wav)
        self.refused(404, "POST", "/api/attention/99", wav)
        self.refused(415, "POST", "/api/attention/1", (self.folder / "data/test 2.png").read_bytes())
        self.refused(405, "DELETE", "/api/search")
        for path in ("/api/items/99/picture", "/api/items/-1/picture", "/api/items/..%2f..%2fetc%2fpasswd/sound", "/../etc/passwd", "/%2e%2e/x"):
            self.refused(404, "GET", path)
        self.assertIn("localhost", self.refused(403, "GET", "/api/about", Host="evil.example"))
        self.refused(403, "POST", "/api/search", wav, Origin="http://evil.example")
        for _, headers, _ in (self.server.ask("GET", "/"), self.server.ask("GET", "/none")):
            self.assertIn("default-src 'none'", headers["content-security-policy"])
            self.assertNotIn("access-control-allow-origin", headers)
        self.assertTrue(self.server.found(wav))

    def test_those_who_leave_or_linger_harm_nobody(self) -> None:
        head = f"POST /api/search HTTP/1.1\r\nHost: {self.server.address}\r\nContent-Length: {len(self.sounds[0])}\r\n\r\n".encode()
        lingering = [self.server.socket() for _ in range(20)]
        for number, slow in enumerate(lingering):
            slow.sendall(head + self.sounds[0][: 100 * number] if number % 2 else head[:40])
        for part in (head[:10], head, head + self.sounds[0][:500], head + self.sounds[0]):
            for _ in range(10):
                gone = self.server.socket()
                gone.sendall(part)
                gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                gone.close()
        begun = time.monotonic()
        self.assertTrue(self.server.found(self.sounds[0]))
        self.assertLess(time.monotonic() - begun, 5)
        # Who sends the rest in time is answered.
        lingering[1].sendall(self.sounds[0][100:])
        self.assertIn(b"200 OK", lingering[1].recv(100))
        lingering[3].settimeout(60)
        self.assertIn(b"408", lingering[3].recv(100))
        for slow in lingering:
            slow.close()

    def test_a_full_line_says_when_to_come_back(self) -> None:
        narrow = Server(self.folder, "--queue", "1", "--batch", "1")
        alone = {number: narrow.found(sound) for number, sound in enumerate(self.sounds[:8])}

        def one(client: int) -> int:
            status, headers, body = narrow.ask("POST", "/api/search?k=3", self.sounds[client % 8])
            if status == 503:
                assert headers["retry-after"] == "1" and "error" in json.loads(body), headers
            else:
                assert [hit["id"] for hit in json.loads(body)["found"]] == [id for id, _ in alone[client % 8]]
            return status

        with ThreadPoolExecutor(48) as clients:
            statuses = set(clients.map(one, range(480)))
        self.assertEqual(statuses, {200, 503})
        self.assertEqual(narrow.stop(), 0)

    def test_what_has_begun_is_finished(self) -> None:
        server = Server(self.folder)
        late = server.socket()
        head = f"POST /api/search?k=3 HTTP/1.1\r\nHost: {server.address}\r\nContent-Length: {len(self.sounds[0])}\r\n\r\n"
        late.sendall(head.encode() + self.sounds[0][:100])
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.7)
        with self.assertRaises(ConnectionRefusedError):
            server.socket()
        late.sendall(self.sounds[0][100:])
        self.assertIn(b"200 OK", late.recv(4000))
        late.close()
        self.assertEqual(server.process.wait(10), 0)
        server.stop()

    def test_others_need_a_token(self) -> None:
        refused = subprocess.run([CMD, "serve", "idx", "--address", "0.0.0.0"], cwd=self.folder, stderr=subprocess.PIPE, text=True)
        self.assertEqual((refused.returncode, "CMD_TOKEN" in refused.stderr), (2, True), refused.stderr)
        server = Server(self.folder, "--address", "0.0.0.0", "--token", "s3cret")
        server.host = "127.0.0.1"
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": f"cmd_token_{server.port}=s3cre"}):
            self.assertEqual(server.ask("GET", "/api/about", **headers)[0], 401)
        self.assertEqual(server.ask("GET", "/healthz")[0], 200)
        self.assertEqual(server.ask("GET", "/api/about", Authorization="Bearer s3cret")[0], 200)
        status, headers, _ = server.ask("GET", "/?token=s3cret")
        cookie = headers["set-cookie"]
        self.assertEqual((status, "HttpOnly" in cookie, "SameSite=Strict" in cookie), (303, True, True))
        self.assertEqual(server.ask("GET", "/", Cookie=cookie.split(";")[0])[0], 200)
        self.assertEqual(server.ask("GET", "/?token=wrong")[0], 401)
        self.assertEqual(server.stop(), 0)

    def test_no_path_leaves_the_index(self) -> None:
        folder, outside = self.folder / "own", self.folder / "outside"
        folder.mkdir(), outside.mkdir()
        for number in range(4):
            write_wav(folder / f"{number}.wav", number, 0)
            shutil.copy(self.folder / f"data/test {number}.png", folder / f"{number}.png")
        shutil.copy(self.folder / "data/train 1.png", outside / "secret.png")
        (folder / "link.png").symlink_to(outside / "secret.png")
        self.cmd("search", "index", "own", "--out", "own.idx")
        server = Server(self.folder, index="own.idx")
        listed = [json.loads(line)["file"] for line in (self.folder / "own.idx/files-0.jsonl").read_text().splitlines()]
        number = {Path(file).name: place for place, file in enumerate(listed)}
        self.assertEqual(server.ask("GET", f"/api/items/{number['link.png']}/picture")[0], 404)
        self.assertNotIn(number["link.png"], [id for id, _ in server.found(self.sounds[0], "k=50")])
        # One is changed, one becomes a link, one goes.
        self.assertEqual(server.ask("GET", f"/api/items/{number['0.png']}/picture")[0], 200)
        shutil.copy(self.folder / "data/train 2.png", folder / "0.png")
        (folder / "1.png").unlink(), (folder / "1.png").symlink_to(outside / "secret.png")
        (folder / "2.wav").unlink()
        for name, status in (("0.png", 409), ("1.png", 404), ("2.wav", 404), ("3.png", 200), ("3.wav", 200)):
            what = "picture" if name.endswith("png") else "sound"
            self.assertEqual(server.ask("GET", f"/api/items/{number[name]}/{what}")[0], status, name)
        # The folder itself becomes a link.
        folder.rename(self.folder / "moved"), (self.folder / "own").symlink_to(self.folder / "moved")
        self.assertEqual(server.ask("GET", f"/api/items/{number['3.png']}/picture")[0], 404)
        self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    unittest.main()
