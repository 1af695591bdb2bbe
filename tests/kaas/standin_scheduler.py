#!/usr/bin/python3
"""Takes the place of kube-scheduler where that has not been built: answers /healthz with the certificate that it is given, and schedules nothing. For tests of what surrounds it."""
import argparse
import http.server
import ssl

parser = argparse.ArgumentParser(allow_abbrev=False)
for name in ("bind-address", "tls-cert-file", "tls-private-key-file"):
    parser.add_argument(f"--{name}", required=True)
parser.add_argument("--secure-port", type=int, required=True)
options, _ = parser.parse_known_args()


class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/healthz" else 404)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    def get_request(self):
        """With the certificate as it is now: the one before may have ended."""
        connection, peer = super().get_request()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(options.tls_cert_file, options.tls_private_key_file)
            return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), peer
        except OSError:  # between the key and the certificate
            connection.close()
            raise


Server((options.bind_address, options.secure_port), Health).serve_forever()
