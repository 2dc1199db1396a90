"""Calls hosts that a client names, in a network of its own.

    custom.py GATEWAY DATA

Run by `unshare --map-root-user --mount --net`: there, public addresses are this
machine's, and names lead to them. Starts the program GATEWAY on the folder
DATA, and prints one JSON object a call: what was called and what came of it;
the last has the log's entries.
"""

import asyncio
import datetime
import http.server
import json
import os
import pathlib
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from calls import key

PUBLIC, INSIDE = "93.184.216.34", "10.9.8.7"
HOSTS = {
    "api.example.com": [PUBLIC],
    "inside.example.com": [INSIDE],
    "mixed.example.com": [PUBLIC, INSIDE],
    "loop.example.com": ["127.0.0.1"],
    "unsigned.example.net": [PUBLIC],
}
GATEWAY = "127.0.0.1:8787"
CHAT = {"id": "chatcmpl-custom", "model": "m-1", "choices": [],
        "usage": {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}}
EVENTS = ({"type": "session.created", "session": {"model": "m-2"}},
          {"type": "response.created", "response": {"id": "resp_custom"}},
          {"type": "response.done", "response": {"id": "resp_custom", "status": "completed",
                                                 "usage": {"input_tokens": 7, "output_tokens": 3}}})


def run(*command):
    subprocess.run(command, check=True)


def make_network(folder):
    run("ip", "link", "set", "lo", "up")
    for address in (PUBLIC, INSIDE):
        run("ip", "address", "add", f"{address}/32", "dev", "lo")
    lines = [f"{address} {host}" for host, addresses in HOSTS.items() for address in addresses]
    hosts = folder / "hosts"
    hosts.write_text("127.0.0.1 localhost\n" + "\n".join(lines) + "\n")
    run("mount", "--bind", str(hosts), "/etc/hosts")


def make_certificates(folder):
    """An authority, and a certificate of its for all names but one."""
    begin = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)

    def certificate(name, names, issuer, issuer_key, own):
        builder = (x509.CertificateBuilder()
                   .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
                   .issuer_name(issuer)
                   .public_key(own.public_key())
                   .serial_number(x509.random_serial_number())
                   .not_valid_before(begin)
                   .not_valid_after(begin + datetime.timedelta(days=9))
                   .add_extension(x509.BasicConstraints(ca=not names, path_length=None), critical=True))
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        return builder.sign(issuer_key, hashes.SHA256())

    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")])
    authority = certificate("authority", [], name, authority_key, authority_key)
    names = [host for host in HOSTS if not host.startswith("unsigned")]
    server = certificate("server", names, name, authority_key, server_key)
    pem = serialization.Encoding.PEM
    (folder / "authority.pem").write_bytes(authority.public_bytes(pem))
    (folder / "server.pem").write_bytes(server.public_bytes(pem) + server_key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context


class Provider(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        redirects = self.path.endswith("moved/chat/completions")
        body = b"" if redirects else json.dumps(CHAT).encode()
        self.send_response(302 if redirects else 200)
        if redirects:
            self.send_header("location", f"http://{INSIDE}/")
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def get(path):
    with urllib.request.urlopen(f"http://{GATEWAY}{path}") as answer:
        return json.load(answer)


def post(upstream, path):
    request = urllib.request.Request(
        f"http://{GATEWAY}/custom/{path}", data=b'{"model":"m"}',
        headers={"x-tally-upstream": upstream, "authorization": f"Bearer {key('custom')}",
                 "content-type": "application/json"})
    try:
        answer = urllib.request.build_opener(NoRedirects).open(request)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return {"called": f"{upstream} {path}", "status": answer.status, "body": answer.read().decode(),
                "receipt": answer.headers.get("x-tally-receipt-id")}


async def session(socket):
    for event in EVENTS[:1]:
        await socket.send(json.dumps(event))
    async for _ in socket:
        for event in EVENTS[1:]:
            await socket.send(json.dumps(event))


async def talk(context):
    async with serve(session, PUBLIC, 8443, ssl=context):
        headers = {"x-tally-upstream": "https://api.example.com:8443",
                   "authorization": f"Bearer {key('custom')}"}
        async with connect(f"ws://{GATEWAY}/custom/v1/realtime", additional_headers=headers) as socket:
            seen = [json.loads(await socket.recv())]
            await socket.send('{"type":"response.create"}')
            seen += [json.loads(await socket.recv()) for _ in EVENTS[1:]]
            return {"called": "wss", "status": socket.response.status_code, "body": json.dumps(seen == list(EVENTS)),
                    "receipt": socket.response.headers.get("x-tally-receipt-id")}


def main(program, data):
    data = pathlib.Path(data)
    make_network(data)
    context = make_certificates(data)
    # On every address: a call to the inside would be answered.
    server = http.server.ThreadingHTTPServer(("0.0.0.0", 443), Provider)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    gateway = subprocess.Popen(
        [program, "--data-dir", str(data / "log"), "--listen", GATEWAY,
         "--custom-port", "443", "--custom-port", "8443"],
        env={**os.environ, "SSL_CERT_FILE": str(data / "authority.pem")},
        stdout=subprocess.DEVNULL, stderr=(data / "story").open("w"))
    try:
        for _ in range(400):
            try:
                get("/api/chain")
                break
            except OSError:
                time.sleep(0.05)
        for upstream, path in (
            ("https://api.example.com", "v1/chat/completions"),
            ("https://api.example.com/moved", "chat/completions"),
            ("https://inside.example.com", "v1/chat/completions"),
            ("https://mixed.example.com", "v1/chat/completions"),
            ("https://loop.example.com", "v1/chat/completions"),
            ("https://unsigned.example.net", "v1/chat/completions"),
            (f"https://{PUBLIC}", "v1/chat/completions"),
        ):
            print(json.dumps(post(upstream, path)))
        print(json.dumps(asyncio.run(talk(context))))
        for _ in range(100):
            if get("/api/chain")["size"] >= 3:
                break
            time.sleep(0.05)
        entries = [json.loads(record["entry"]) for record in get("/api/records")["records"]]
        print(json.dumps({"entries": entries[1:]}))
    finally:
        gateway.terminate()
        gateway.wait()


if __name__ == "__main__":
    match sys.argv[1:]:
        case [program, data]:
            main(program, data)
        case _:
            sys.exit(__doc__)
