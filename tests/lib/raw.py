"""Plain HTTP to the API as admin: status, headers and bytes, for what clients only see on the wire."""
import http.client
import json
import ssl
import urllib.parse


class Answer:
    def __init__(self, response):
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    def json(self):
        return json.loads(self.body)


def context(cloud):
    c = ssl.create_default_context(cafile=str(cloud.data / "pki" / "ca.crt"))
    c.load_cert_chain(str(cloud.data / "pki" / "admin.crt"), str(cloud.data / "pki" / "admin.key"))
    return c


def call(cloud, method, path, body=None, timeout=60, **headers):
    """headers: accept="application/json", if_none_match='"x"' …"""
    connection = connection_to(cloud, timeout)
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items() if value is not None})
        return Answer(connection.getresponse())
    finally:
        connection.close()


def connection_to(cloud, timeout=60):
    """One connection, for many requests."""
    address = urllib.parse.urlsplit(cloud.api_url)
    return http.client.HTTPSConnection(address.hostname, address.port, timeout=timeout, context=context(cloud))


def get(cloud, path, **headers):
    return call(cloud, "GET", path, **headers)
