"""Other proxies that the gateway is measured beside, where they are installed: nginx.

nginx is given one worker and kept connections; it asks for no token and counts nothing.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000;
  upstream replica {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://replica;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_buffering off;
    }}
  }}
}}
"""


def has_nginx() -> bool:
    """Return whether nginx is installed here."""
    return shutil.which("nginx") is not None


@contextmanager
def nginx(port: int, upstream: int) -> Iterator[int]:
    """Run nginx before *upstream* at *port*; yield its pid."""
    with tempfile.TemporaryDirectory(prefix="bench-nginx-") as folder:
        told = Path(folder) / "nginx.conf"
        told.write_text(CONFIGURATION.format(folder=folder, port=port, upstream=upstream))
        command = ["nginx", "-p", folder, "-c", str(told)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                yield process.pid
            finally:
                process.terminate()
