"""A client of HTTP/2 to the API, made of python-h2, which lets a test choose each frame."""
import socket
import ssl

import h2.config
import h2.connection
import h2.events
import h2.settings


class Peer:
    """With the admin's certificate, or, when as_admin is False, with whatever headers each request brings."""

    def __init__(self, cloud, validate=True, window=None, as_admin=True):
        context = ssl.create_default_context(cafile=str(cloud.data / "pki" / "ca.crt"))
        if as_admin:
            context.load_cert_chain(str(cloud.data / "pki" / "admin.crt"), str(cloud.data / "pki" / "admin.key"))
        context.set_alpn_protocols(["h2", "http/1.1"])
        host, port = cloud.address("api").rsplit(":", 1)
        self.host = f"{host}:{port}"
        plain = socket.create_connection((host, int(port)), timeout=20)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a frame a write: no waiting for acknowledgements
        self.sock = context.wrap_socket(plain, server_hostname=host)
        assert self.sock.selected_alpn_protocol() == "h2"
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, validate_outbound_headers=validate, normalize_outbound_headers=validate))
        self.h2.initiate_connection()
        self.streams, self.goaway, self.closed, self.agreed = {}, None, False, 0
        self.flush()
        if window is not None:
            self.until(lambda: self.agreed)
            self.agreed = 0
            self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
            self.flush()
            self.until(lambda: self.agreed)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def flush(self):
        data = self.h2.data_to_send()
        if data:
            self.sock.sendall(data)

    def request(self, method, path, body=None, headers=(), end=True):
        stream = self.h2.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "https"), (":authority", self.host), (":path", path), *headers]
        self.h2.send_headers(stream, head, end_stream=end and body is None)
        self.streams[stream] = {"status": None, "headers": {}, "body": b"", "ended": False, "reset": None}
        rest = body or b""
        while rest and not self.streams[stream]["ended"]:
            n = min(len(rest), self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if n == 0:
                self.flush()
                self.receive()
                continue
            self.h2.send_data(stream, rest[:n], end_stream=end and n == len(rest))
            rest = rest[n:]
        self.flush()
        return stream

    def receive(self, acknowledge=True):
        data = self.sock.recv(65536)
        if not data:
            self.closed = True
            return
        for e in self.h2.receive_data(data):
            s = self.streams.get(getattr(e, "stream_id", None), {})
            if isinstance(e, h2.events.ResponseReceived):
                s["headers"] = {k.decode() if isinstance(k, bytes) else k: v.decode() if isinstance(v, bytes) else v for k, v in e.headers}
                s["status"] = int(s["headers"][":status"])
            elif isinstance(e, h2.events.DataReceived):
                s["body"] += e.data
                if acknowledge:
                    self.h2.acknowledge_received_data(e.flow_controlled_length, e.stream_id)
            elif isinstance(e, h2.events.StreamEnded):
                s["ended"] = True
            elif isinstance(e, h2.events.StreamReset):
                s["reset"] = e.error_code
            elif isinstance(e, h2.events.SettingsAcknowledged):
                self.agreed += 1
            elif isinstance(e, h2.events.ConnectionTerminated):
                self.goaway = e.error_code
        self.flush()

    def until(self, condition):
        while not condition():
            assert not self.closed and self.goaway is None, f"the connection ended: {self.goaway}"
            self.receive()

    def answer(self, stream):
        s = self.streams[stream]
        self.until(lambda: s["ended"] or s["reset"] is not None)
        return s
