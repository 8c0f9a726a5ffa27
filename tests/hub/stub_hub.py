"""A hub on this machine: repositories from a folder, under the addresses that the hub's own clients ask.

`models/<id>/…` and `datasets/<id>/…` below `root` are served, each under one made-up commit. What goes wrong with a
repository is named in `faults`.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

API = re.compile(
    r"/api/(models|datasets)/([^/]+/[^/]+)"
    r"(?:/(auth-check|revision|tree|paths-info|preupload|commit)(?:/([^/]+)(?:/(.*))?)?)?$"
)
BATCH = re.compile(r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch$")
BLOB = re.compile(r"/blobs/(models|datasets)/([^/]+/[^/]+)/([0-9a-f]{64})$")
#: What git would keep as a pointer.
LARGE = (".safetensors", ".parquet")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")


def commit_of(repository):
    return hashlib.sha1(repository.encode()).hexdigest()


class StubHub(ThreadingHTTPServer):
    """Listens on a free port of 127.0.0.1; `faults` by repository: a fault's name, or (name, file)."""

    daemon_threads = True

    def __init__(self, root):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = Path(root)
        self.faults = {}
        self.asked = []  # (method, path)
        self.blobs = {}  # sha256 -> content that was sent and is in no commit yet
        self.commits = []  # (kind, repository, names of files)
        self.closing = threading.Event()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    @contextmanager
    def serving(self):
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield self
        finally:
            self.closing.set()
            self.shutdown()
            thread.join()
            self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def do_POST(self):
        self._body = self._read_body()
        self._answer()

    def do_PUT(self):
        self._body = self._read_body()
        self._answer()

    def _read_body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self):
        address = urlsplit(self.path)
        path = unquote(address.path)
        self.server.asked.append((self.command, self.path))
        if path == "/":
            self._send(200, b"")
        elif path == "/api/repos/create":
            self._create()
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif found := BATCH.fullmatch(path):
            kind = "datasets" if found[1] else "models"
            self._failing(kind, found[2], "batch") or self._batch(kind, found[2])
        elif found := BLOB.fullmatch(path):
            self._failing(found[1], found[2], "blob") or self._blob(found[3])
        elif found := API.fullmatch(path):
            kind, repository, what, _, below = found.groups()
            asked_for = what if what in ("auth-check", "preupload", "commit") else None
            self._failing(kind, repository, asked_for) or self._api(kind, repository, what, below or "")
        elif found := FILE.fullmatch(path):
            kind, repository, _, name = found.groups()
            kind = "datasets" if kind else "models"
            self._failing(kind, repository, name) or self._file(kind, repository, name)
        else:
            self._error(404, "", "Not Found")

    # What goes wrong

    def _failing(self, kind, repository, name):
        """True where the repository has a fault, which is then the answer."""
        fault = self.server.faults.get(repository, "" if self._folder(kind, repository).is_dir() else "missing")
        if isinstance(fault, tuple):
            fault, only = fault
            if name != only:
                fault = "" if self._folder(kind, repository).is_dir() else "missing"
        answers = {
            "unauthorized": (401, "", "Invalid credentials in Authorization header"),
            "missing": (401, "RepoNotFound", "Repository not found"),  # the hub hides what is private so
            "missing with a token": (404, "RepoNotFound", "Repository not found"),
            "gated": (403, "GatedRepo", f"Access to {kind[:-1]} {repository} is restricted"),
            "forbidden": (403, "", "Forbidden"),
            "revision": (404, "RevisionNotFound", "Invalid rev id: v9"),
            "too many": (429, "", "Too Many Requests"),
            "broken": (500, "", "Internal Error"),
            "overloaded": (503, "", "Service Unavailable"),
        }
        # of a gated repository everybody may see what it holds
        if not fault or (fault == "gated" and name is None):
            return False
        if fault == "hangs":
            self.server.closing.wait(60)
            self.close_connection = True
        elif fault == "cut off":
            return self._cut_off(kind, repository, name)
        elif fault == "moved":
            return self._moved(kind, repository)
        else:
            self._error(*answers[fault])
        return True

    def _cut_off(self, kind, repository, name):
        """The connection ends in the middle of a file, each time it is asked for or sent."""
        if self.command == "PUT":
            self.close_connection = True
            return True
        if name is None or self.command == "HEAD":
            return False
        content = (self._folder(kind, repository) / name).read_bytes()
        self.send_response(200)
        self._describe(kind, repository, content)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        self.close_connection = True
        return True

    def _moved(self, kind, repository):
        """A repository of another name now: every address under the old one is redirected."""
        self.send_response(307)
        self.send_header("Location", self.path.replace(repository, f"{repository}-renamed"))
        self.send_header("Content-Length", "0")
        self.end_headers()
        return True

    # What is right

    def _api(self, kind, repository, what, below):
        folder = self._folder(kind, repository)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if what == "preupload":
            asked = [file["path"] for file in json.loads(self._body)["files"]]
            modes = [{"path": p, "uploadMode": "lfs" if p.endswith(LARGE) else "regular"} for p in asked]
            self._json({"files": [mode | {"shouldIgnore": False} for mode in modes]})
        elif what == "commit":
            self._commit(kind, repository)
        elif what == "tree" and not (folder / below).is_dir():
            self._error(404, "EntryNotFound", f"{below} does not exist", repository)
        elif what == "tree":
            self._json(self._entries(folder, folder / below))
        elif what == "paths-info":
            asked = self._asked_paths()
            self._json([entry for path in asked for entry in self._entry(folder, folder / path)])
        else:
            self._json(
                {
                    "id": repository,
                    "sha": commit_of(repository),
                    "private": False,
                    "gated": False,
                    "tags": [],
                    "downloads": 1,
                    "likes": 1,
                    "siblings": [{"rfilename": path.relative_to(folder).as_posix()} for path in files],
                }
            )

    # What is sent

    def _create(self):
        asked = json.loads(self._body)
        kind, repository = f"{asked.get('type') or 'model'}s", f"{asked.get('organization')}/{asked['name']}"
        fault = self.server.faults.get(repository, ("", ""))
        if (isinstance(fault, str) or fault[1] == "create") and self._failing(kind, repository, "create"):
            return
        if self._folder(kind, repository).is_dir():
            body = json.dumps({"url": f"{self.server.address}/{repository}", "error": "exists"}).encode()
            self._send(409, body, "application/json")
            return
        self._folder(kind, repository).mkdir(parents=True)
        prefix = "datasets/" if kind == "datasets" else ""
        self._json({"url": f"{self.server.address}/{prefix}{repository}"})

    def _batch(self, kind, repository):
        objects = json.loads(self._body)["objects"]
        for one in objects:
            href = f"{self.server.address}/blobs/{kind}/{repository}/{one['oid']}"
            one["actions"] = {"upload": {"href": href, "header": {}}}
        self._json({"transfer": "basic", "objects": objects})

    def _blob(self, oid):
        assert hashlib.sha256(self._body).hexdigest() == oid
        self.server.blobs[oid] = self._body
        self._send(200, b"")

    def _commit(self, kind, repository):
        """Every file of it, or none."""
        lines = [json.loads(line) for line in self._body.splitlines()]
        files = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
        for name, content in files.items():
            path = self._folder(kind, repository) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self.server.commits.append((kind, repository, sorted(files)))
        prefix = "datasets/" if kind == "datasets" else ""
        oid = commit_of(repository)
        self._json({"commitUrl": f"{self.server.address}/{prefix}{repository}/commit/{oid}", "commitOid": oid})

    def _asked_paths(self):
        if self.headers.get("Content-Type", "").startswith("application/json"):
            return json.loads(self._body)["paths"]
        return parse_qs(self._body.decode())["paths"]

    def _entries(self, folder, below):
        recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in ("true", "1")
        paths = sorted(below.rglob("*") if recursive else below.iterdir())
        return [entry for path in paths for entry in self._entry(folder, path)]

    def _entry(self, folder, path):
        if not path.exists():
            return []
        name = path.relative_to(folder).as_posix()
        oid = hashlib.sha1(name.encode()).hexdigest()
        if path.is_dir():
            return [{"type": "directory", "oid": oid, "size": 0, "path": name}]
        return [{"type": "file", "oid": oid, "size": path.stat().st_size, "path": name}]

    def _file(self, kind, repository, name):
        path = self._folder(kind, repository) / name
        if not path.is_file():
            self._error(404, "EntryNotFound", "Entry not found", repository)
            return
        content = path.read_bytes()
        first, last = 0, len(content) - 1
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            first, last = int(wanted[1]), min(int(wanted[2] or last), last)
        part = content[first : last + 1]
        self.send_response(206 if wanted else 200)
        self._describe(kind, repository, content, len(part))
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(part)

    def _describe(self, kind, repository, content, length=None):
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit_of(repository))

    def _folder(self, kind, repository):
        return self.server.root / kind / repository

    def _json(self, value):
        self._send(200, json.dumps(value).encode(), "application/json")

    def _error(self, code, name, message, repository=""):
        self.send_response(code)
        if name:
            self.send_header("X-Error-Code", name)
        if repository:
            self.send_header("X-Repo-Commit", commit_of(repository))
        self.send_header("X-Error-Message", message)
        body = json.dumps({"error": message}).encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send(self, code, content, kind="text/plain"):
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
